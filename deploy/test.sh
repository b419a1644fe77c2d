#!/bin/bash
# Proves what this machine can prove: the code's form, then every test, real virtual machines included. As root.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deploy/setup.sh test >/dev/null
deploy/check.sh
export PYTHONPATH=.:gen
pytest=(.venv/bin/python -m pytest -q -p no:cacheprovider --durations=10)
if [ $# -gt 0 ]; then exec "${pytest[@]}" "$@"; fi

# Two at a time where tests have their own ports and folders; real machines one after the other. Each part runs, also
# when one before it fails, and the last line tells how all of them ended.
failed=()
part() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "${pytest[@]}" "$@" || failed+=("$name")
}
part "unit, contract, arch, service" -n 2 --dist loadfile -m "not e2e" tests/unit tests/contract tests/arch tests/service
part "cloud with fake drivers" tests/cloud
part "real machines" tests/e2e
if [ ${#failed[@]} -gt 0 ]; then
    printf '\nFAILED: %s\n' "${failed[*]}"
    exit 1
fi
printf '\nEverything passed.\n'
