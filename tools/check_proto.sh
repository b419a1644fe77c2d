#!/bin/sh
# The contracts: spelt as the house wants them, as contract.toml says, and compatible with what clouds run.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.venv/bin
"$bin/buf" lint proto
PYTHONPATH=. "$bin/python" -m tools.import_shapes --check
# Releases are tags like v1.2.3. Before the first of them: the first contracts whose clouds keep their data.
first=dd84c684d3ede16a10b1849ea937679cb0367df2
base=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || echo "$first")
if commit=$(git rev-parse --quiet --verify "$base^{commit}"); then
    "$bin/buf" breaking proto --against ".git#ref=$commit,subdir=proto"
else
    echo "buf breaking: skipped, this clone does not reach back to $base"
fi
