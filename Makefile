# Every target is one command. `make help` lists them.
PYTHON ?= python3
SEED ?= 1
MINUTES ?= 10
RUNS ?= 4
JOBS ?= 3
ONLY ?=
TRANSPORT ?= edge
DATA ?= var
V := .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

EDITABLE := $(V)/python -m pip install --quiet --no-deps --no-build-isolation -e . -e clients/python -e proto/gen/python

.DEFAULT_GOAL := help
.PHONY: help run cluster test test-fast check gen lock soak chaos fuzz mutants bench report venv

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

run: .venv/run.stamp ## Starts everything on this machine; HUBBUB_PORT is Envoy's port (8080), DATA= the folder (var). Ctrl-C stops it.
	@$(V)/hubbub up --data $(DATA)

cluster: .venv/cluster.stamp ## The same with 3 NATS servers, Cassandra, Valkey, 3 nodes, 2 workers, in DATA/cluster; needs Java and Maven.
	@$(V)/hubbub up --nodes 3 --workers 2 --nats 3 --cassandra 1 --data $(DATA)/cluster

test: .venv/dev.stamp ## Runs every test that the README promises, JOBS= groups of them side by side (0: one after the other).
	$(V)/python -m pytest -n $(JOBS) --no-loadscope-reorder

test-fast: .venv/dev.stamp ## Runs the levels that need no servers: unit, contract on SQLite and fakes, rpc.
	$(V)/python -m pytest -m "unit or contract or rpc" --adapters=fake,sqlite

check: .venv/dev.stamp ## Lints, types, layers, dependencies, contract, generated code.
	$(V)/python -m scripts.check

gen: .venv/dev.stamp ## Generates proto/gen from proto/hubbub, envoy/envoy.json and deploy/envoy.json.
	$(V)/python -m scripts.gen
	$(V)/python -m scripts.gen_envoy

lock: ## Renews requirements/*.txt; needs uv. LOCK="-P name" upgrades one package.
	scripts/lock.sh $(LOCK)

soak: .venv/dev.stamp ## Kills parts under load and checks every history: SEED=, MINUTES=.
	$(V)/python -m tests.soak --seed $(SEED) --minutes $(MINUTES) --out var/figures/soak.json

chaos: .venv/dev.stamp ## Breaks a cluster in every way, run after run, and checks every history: SEED=, RUNS=, ONLY="kind,kind", TRANSPORT=edge|grpc.aio.
	$(V)/python -m tests.chaos --seed $(SEED) --runs $(RUNS) --only "$(ONLY)" --transport $(TRANSPORT) \
		--out var/figures/chaos$(if $(filter edge,$(TRANSPORT)),,_$(subst .,_,$(TRANSPORT))).json

fuzz: .venv/dev.stamp ## Says things to the stream edge that are nearly right, and checks that nothing else suffers: SEED=, MINUTES=.
	$(V)/python -m tests.fuzz --seed $(SEED) --minutes $(MINUTES)

mutants: .venv/dev.stamp ## Breaks each promise on purpose; fails when a test does not notice.
	$(V)/python -m tests.mutants

bench: .venv/dev.stamp ## Takes the figures of speed, about 40 minutes on a quiet machine; Centrifugo beside ours needs Go.
	$(V)/python -m bench

report: .venv/dev.stamp ## Writes docs/report.json, and docs/PERFORMANCE.md from it.
	@$(V)/python -m bench.report; code=$$?; $(V)/python -m bench.performance && exit $$code

venv: .venv/dev.stamp ## Makes .venv with everything in it.

# pip comes last: an interrupted set-up starts again.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hubbub needs Python 3.11 or newer: PYTHON=... make")'
	$(PYTHON) -m venv .venv

# run.txt is a part of cql.txt, and that of dev.txt: a stamp is good for what is a part of it.
.venv/run.stamp: requirements/run.txt | .venv/bin/pip
	$(V)/python -m pip install --quiet --require-hashes -r requirements/run.txt
	$(EDITABLE)
	@touch $@

.venv/cluster.stamp: requirements/cql.txt | .venv/bin/pip
	$(V)/python -m pip install --quiet --require-hashes -r requirements/cql.txt
	$(EDITABLE)
	@touch $@ .venv/run.stamp

.venv/dev.stamp: requirements/dev.txt | .venv/bin/pip
	$(V)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	$(EDITABLE)
	@touch $@ .venv/cluster.stamp .venv/run.stamp
