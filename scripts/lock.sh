#!/bin/sh
# Resolve pyproject.toml into requirements/*.txt: every version pinned, every file hashed, for every Python from 3.11.
set -eu
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@" pyproject.toml; }
compile --output-file requirements/runtime.txt
compile --group test --output-file requirements/test.txt
compile --group bench --output-file requirements/bench.txt
