#!/bin/bash
# Proves what this machine can prove: the code's form, then every test, real virtual machines included. As root.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deploy/setup.sh test >/dev/null
form=0
deploy/check.sh || form=$?
export PYTHONPATH=.:gen
# Two at a time where tests have ports and folders of their own; tests/conftest.py says what stays together.
.venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --no-loadscope-reorder --durations=15 "$@"
if [ "$form" != 0 ]; then
    echo "The tests passed, but deploy/check.sh did not: see the top." >&2
    exit "$form"
fi
