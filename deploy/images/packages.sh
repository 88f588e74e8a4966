#!/bin/sh
# Makes /opt/scaleodm: a virtual environment with what the given extras need of requirements.lock, or with what the
# project itself needs. project.sh adds the project. Run in a stage of deploy/Dockerfile: packages.sh router cli
set -eu
venv=/opt/scaleodm
if ! python3 -m pip --version >/dev/null 2>&1; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends python3-pip
fi
pip() { python3 -m pip --disable-pip-version-check "$@"; }

# What builds our wheel stays beside the environment.
python3 deploy/images/locked.py --packages hatchling >/tmp/build.txt
pip install -q --no-cache-dir --no-deps --require-hashes --target /tmp/build -r /tmp/build.txt

python3 -m venv --without-pip "$venv"
python3 deploy/images/locked.py --extras "$@" >/tmp/run.txt
pip --python "$venv/bin/python" install -q --no-cache-dir --no-compile --no-deps --require-hashes -r /tmp/run.txt

# Most of botocore describes other services than S3 and STS.
data=$(find "$venv" -type d -path '*/botocore/data')
find "$data" -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts -exec rm -r {} +
# C sources.
find "$venv" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' \) -delete
# Bytecode whose marks are the same in every build.
"$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$venv/lib"
