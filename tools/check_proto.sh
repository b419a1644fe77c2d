#!/bin/sh
# The contracts: spelt as the house wants them, as contract.toml says, and compatible with the last release.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
"$bin/buf" lint proto
PYTHONPATH=. "$bin/python" -m tools.import_shapes --check
# Releases are tags like v1.2.3.
if last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
    "$bin/buf" breaking proto --against ".git#tag=$last,subdir=proto"
else
    echo "buf breaking: skipped, there is no release tag (v*) to compare with"
fi
