#!/bin/bash
# What can be said of the code without running it: format, lint, types, contracts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.venv/bin
export PYTHONPATH=.:gen

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy" common services ec2_facade cli deploy images tools tests bench
tools/check_proto.sh
