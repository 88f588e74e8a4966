#!/bin/sh
# Adds the project to the /opt/scaleodm that packages.sh has made, and sees that nothing is missing.
set -eu
venv=/opt/scaleodm
pip() { python3 -m pip --disable-pip-version-check "$@"; }

PYTHONPATH=/tmp/build PATH="/tmp/build/bin:$PATH" pip wheel -q --no-index --no-deps --no-build-isolation -w /tmp/wheel .
pip --python "$venv/bin/python" install -q --no-index --no-cache-dir --no-compile --no-deps /tmp/wheel/scaleodm-*.whl
pip --python "$venv/bin/python" check
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$site/common" "$site/node" "$site/router"
