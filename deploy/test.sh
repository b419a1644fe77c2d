#!/bin/bash
# Proves what this machine can prove: the code's form, then every test, real virtual machines included. As root.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

deploy/setup.sh test >/dev/null
form=0
deploy/check.sh || form=$?
export PYTHONPATH=.:gen
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

run() {
    .venv/bin/python -m pytest -q -o cache_dir="$cache" --durations=15 "$@"
}

# Two at a time where tests have ports and folders of their own; tests/conftest.py says what stays together.
tests=0
run -n 2 --no-loadscope-reorder "$@" || tests=$?
failed=$cache/v/cache/lastfailed
if [ "$tests" = 1 ] && ! grep -qE 'test_(chaos|kill|crash)' "$failed"; then
    # Guests and clouds beside each other on two cores can starve one another. What is broken fails alone as well; what
    # does not is named here, to be made to stand a busy machine. A promise that was broken once is broken.
    echo "What failed is run once more, with the machine to itself:" >&2
    cat "$failed" >&2
    tests=0
    run -n 0 --last-failed --last-failed-no-failures none "$@" || tests=$?
    [ "$tests" != 0 ] || echo "These failed beside other tests and passed alone: mend them." >&2
fi
[ "$tests" = 0 ] || exit "$tests"
if [ "$form" != 0 ]; then
    echo "The tests passed, but deploy/check.sh did not: see the top." >&2
    exit "$form"
fi
