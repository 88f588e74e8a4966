# In place of python:…-slim, where no registry can be reached: Debian's own Python.
FROM standin/debian
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends ca-certificates python3 python3-pip \
  && ln -s python3 /usr/bin/python \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
