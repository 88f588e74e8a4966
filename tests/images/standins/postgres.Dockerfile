# In place of postgres:18: Debian's, which listens as that does.
FROM standin/debian
RUN apt-get update -qq \
  && apt-get install -y -qq --no-install-recommends postgresql \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/lib/postgresql/* \
  && ln -s /usr/lib/postgresql/* /usr/local/postgresql \
  && chmod 3777 /run/postgresql
ENV PATH=/usr/local/postgresql/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
COPY postgres.sh /usr/local/bin/
STOPSIGNAL SIGINT
CMD ["sh", "/usr/local/bin/postgres.sh"]
