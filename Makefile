# The commands of this repository. `make run` and `make test` work on a bare Debian 12 as root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:

# Options for `mallee up`: make run UP="--zones 2 --nodes 2"
UP ?=
PYTEST ?=
# How long `make chaos` takes for each of its clouds, and the seed of what it does; none: another one every time.
MINUTES ?= 15
SEED ?=

# Where deploy/setup.sh links the command to, which not every shell looks into.
stop clean-cloud: export PATH := $(PATH):/usr/local/bin:$(HOME)/.local/bin

.PHONY: run run-fake stop clean-cloud test chaos check conformance bench gen lock

run:  ## the cloud, up and with an image to run
	mallee=$$(deploy/setup.sh run)
	"$$mallee" up $(UP)

run-fake:  ## the same without virtual machines, as any user
	mallee=$$(deploy/setup.sh fake)
	"$$mallee" up --hypervisor fake $(UP)

stop:  ## stops the services; data and virtual machines stay
	mallee down

clean-cloud:  ## removes the cloud and all that it made on this machine; asks first
	mallee destroy

test:  ## everything that this machine can prove
	deploy/test.sh $(PYTEST)

chaos:  ## kills the store a hundred times, and kills, pauses, fills and cuts for MINUTES each of two clouds
	deploy/setup.sh test >/dev/null
	MALLEE_KILLS=100 MALLEE_CRASHES=500 PYTHONPATH=.:gen .venv/bin/python -m pytest -q -p no:cacheprovider \
		tests/service/test_walrus_crash.py tests/service/test_walrus_crash_model.py
	MALLEE_SEED=$(SEED) MALLEE_CHAOS_MINUTES=$(MINUTES) PYTHONPATH=.:gen .venv/bin/python -m pytest -q -s \
		-p no:cacheprovider tests/cloud/test_chaos.py tests/e2e/test_chaos.py

check: .venv gen/mallee  ## formatting, lint, types, contracts
	deploy/check.sh

conformance: .venv gen/mallee  ## what of AWS is served, as text and HTML
	PYTHONPATH=.:gen .venv/bin/python -m tools.conformance

bench:  ## the benchmarks: each a number and its goal
	deploy/setup.sh test >/dev/null
	PYTHONPATH=.:gen .venv/bin/python -m bench

gen: .venv  ## the stubs, from proto/
	tools/gen.sh

lock:  ## requirements.lock, from pyproject.toml
	.venv/bin/uv pip compile -q --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--all-extras pyproject.toml -o requirements.lock

.venv gen/mallee:
	deploy/setup.sh $$([ "$$(id -u)" = 0 ] && echo run || echo fake) >/dev/null
