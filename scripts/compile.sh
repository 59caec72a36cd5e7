#!/bin/sh
# Compile the data plane with mypyc into VENV/compiled: compile.sh VENV. Says so, and makes nothing, without a compiler.
set -eu
cd "$(dirname "$0")/.."
venv=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$venv/compiled"
# A copy, so that two of these, or a build beside a running test, do not meet in ./build.
cp -r setup.py pyproject.toml README.md LICENSE sidecar "$work"
python=$(cd "$venv/bin" && pwd)/python
if ! SIDECAR_COMPILE=1 "$python" -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation \
    --target "$venv/compiled" "$work" >"$work/log" 2>&1; then
  tail -n 20 "$work/log"
  echo "not compiled: that takes gcc and python3-dev"
  rm -rf "$venv/compiled"
fi
