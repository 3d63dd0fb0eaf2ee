# ottla: `make demo` installs and shows it, `make test` proves it. Everything lands in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench bench-kernels test-kafka test-crash test-soak test-zookeeper kernels lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The packages, pinned by hash. Installed again when the lock file changes.
$(VENV)/.installed: $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	touch $@

# ottla itself, editable; its kernels are compiled if there is a C compiler, and built again when they change.
$(VENV)/.built: $(VENV)/.installed pyproject.toml setup.py $(wildcard src/ottla/*/*_cy.py src/ottla/*/*/*_cy.py)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src
	touch $@

kernels: ## compile the kernels again
	rm -f $(VENV)/.built
	$(MAKE) $(VENV)/.built

demo: $(VENV)/.built ## stream the flights of 2013 through a broker of its own
	$(BIN)/python examples/flights.py

serve: $(VENV)/.built ## a broker on localhost:9092 that stays up
	$(BIN)/ottla serve

test: $(VENV)/.built ## the default tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal

lint: $(VENV)/.built ## style, types and borders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-kafka: $(VENV)/.built ## against Apache Kafka and with its tools (needs a JDK; see CONTRIBUTING.md)
	$(BIN)/python -m pytest -q -s -m kafka

test-crash: $(VENV)/.built ## kill -9 and power cuts (the latter need root)
	$(BIN)/python -m pytest -q -s -m crash

test-zookeeper: $(VENV)/.built ## on real ZooKeeper ensembles (needs a JRE; see CONTRIBUTING.md)
	$(BIN)/python -m pytest -q -s -m zookeeper

test-soak: $(VENV)/.built ## long simulations and fuzzing
	$(BIN)/python -m pytest -q -s -m soak

bench: $(VENV)/.built ## against Apache Kafka, writes benchmarks/RESULTS.md (ARGS=--help says more)
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-kernels: $(VENV)/.built ## figures of the kernels, compiled and plain, the codec and the network layer
	for name in kernels codec network_echo; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

lock: ## write requirements.lock anew from pyproject.toml (needs network)
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet pip-tools
	$(VENV)-lock/bin/pip-compile --quiet --no-config --generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-annotate --extra demo --extra dev --output-file $(LOCK) pyproject.toml
	rm -rf $(VENV)-lock

clean: ## remove what was built, keep data
	rm -rf $(VENV) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src -name '*.so' -delete
