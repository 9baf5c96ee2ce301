# Every target works on a fresh clone. `uv` is used when it is there, plain pip otherwise.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help run demo test check format install install-dev lock screenshots vendor clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp holds the lock file it was made from, so that a changed lock installs anew.
$(VENV)/installed: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock; \
	 else $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock; fi
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	@if command -v uv >/dev/null; then uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock; \
	 else $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock; fi
	@touch $@

install: $(VENV)/installed ## Make the virtual environment with the locked dependencies
install-dev: $(VENV)/installed-dev ## The same, with what tests and checks need

run: install ## Run everything, and play the demo story while you watch
	@DEPLOYPIPE_DEMO=true exec $(BIN)/python manage.py run --story

demo: install ## Play the demo story to its end in a throw-away folder; exit 0 only if all went as it must
	@$(BIN)/python -m examples.story.demo

test: install-dev ## Run the tests
	@$(BIN)/python -m pytest -q

check: install-dev ## Format, lint, types, import contracts, migrations, deployment checks, vendored files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy .
	@$(BIN)/lint-imports
	@$(BIN)/python manage.py makemigrations --check --dry-run
	@DEPLOYPIPE_HTTPS=true $(BIN)/python manage.py check --deploy --fail-level WARNING
	@$(BIN)/python scripts/vendor.py --check

format: install-dev ## Put the code into its form
	@$(BIN)/ruff check --fix -q .; $(BIN)/ruff format -q .

lock: ## Resolve the dependencies anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --group dev pyproject.toml -o requirements-dev.lock

screenshots: install-dev ## Pictures of the pages for the documents, of the product that `make run` runs
	@$(BIN)/python scripts/screenshots.py

vendor: ## Fetch the vendored front-end files anew at their pinned versions
	$(BIN)/python scripts/vendor.py

clean: ## Remove what runs and tests have written
	rm -rf var .pytest_cache .mypy_cache .ruff_cache
