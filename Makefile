# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
IMAGES ?=
HOURS ?= 20000
OUT ?=
IMAGE_PREFIX ?= scaleodm
IMAGE_TAG ?= latest

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-cluster test-images images bundle lint types unit study simulate bench format lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY) ## Make .venv from the hash-pinned lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "ScaleODM needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

demo: $(READY) ## A federation of two turns images into an orthophoto (IMAGES=dir OUT=dir)
	@exec $(BIN)/scaleodm demo $(if $(IMAGES),--images "$(IMAGES)") $(if $(OUT),--out "$(OUT)")

up: $(READY) ## The embedded stack, kept running, data in ./scaleodm-data
	@exec $(BIN)/scaleodm up

test: lint types unit ## Lint, types and every test

test-cluster: $(READY) ## The node on a real Kubernetes: KUBECONFIG=… and SCALEODM_TEST_… (deploy/kubernetes/README.md)
	@test -n "$(KUBECONFIG)" -a -n "$$SCALEODM_TEST_NODE_IMAGE" -a -n "$$SCALEODM_TEST_S3_ENDPOINT" \
	  || { echo "make test-cluster needs KUBECONFIG=…, SCALEODM_TEST_NODE_IMAGE and SCALEODM_TEST_S3_ENDPOINT: see deploy/kubernetes/README.md"; exit 1; }
	KUBECONFIG="$(KUBECONFIG)" $(BIN)/pytest tests/cluster -v

test-images: $(READY) ## The container images, really built and run, with a container engine or as root (docs/images.md)
	SCALEODM_TEST_IMAGES=1 $(BIN)/pytest tests/images -v

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile

images: ## The images router, node and stages: IMAGE_PREFIX=scaleodm IMAGE_TAG=latest
	@for target in router node stages; do \
	  docker build -f deploy/Dockerfile --target $$target -t "$(IMAGE_PREFIX)/$$target:$(IMAGE_TAG)" . || exit 1; done

bundle: ## Manifests and compose files of a release, for images of that name and tag, in dist/
	$(PYTHON) deploy/bundle.py "$(IMAGE_PREFIX)" "$(IMAGE_TAG)" dist

study: $(READY) ## Waits under several policies of placement: docs/policy-study.md anew
	$(BIN)/python -m tests.study

simulate: $(READY) ## Seeded faults for HOURS=… simulated hours
	$(BIN)/python -m tests.simulation --hours $(HOURS)

bench: $(READY) ## Speed, as ratios measured in the same run
	$(BIN)/python -m tests.bench

format: $(READY) ## Let ruff write
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY) ## Pin the newest versions, with hashes and without addresses
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --all-extras pyproject.toml -o requirements.lock

clean: ## Away with .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
