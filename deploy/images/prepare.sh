#!/bin/sh
# What every image has beside Python: a user without rights, a folder that is theirs, and a PID 1 that passes signals on
# and buries the dead.
set -eu
apt-get update -qq
apt-get install -y -qq --no-install-recommends tini
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/*
groupadd --gid 10001 scaleodm
useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin scaleodm
install -d -o scaleodm -g scaleodm -m 0750 /data
