# In place of haproxy:…-alpine: Debian's.
FROM standin/debian
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends haproxy wget \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
