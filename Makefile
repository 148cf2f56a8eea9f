# The commands of a developer and of CI.  `make demo` and `make test` need nothing but Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NEWEST := $(VENV)-newest
PYTEST := $(BIN)/python -m pytest

BUILDER ?= $(firstword $(foreach name,podman buildah docker,$(shell command -v $(name))))
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' syncer/__init__.py)
IMAGE ?= oci-syncer:$(VERSION)
IMAGE_FILE ?= dist/oci-syncer-$(VERSION).image.tar

# It mocks aiohttp with aioresponses, which cannot mock the newest (see pyproject.toml).
MOCKED := test_an_answer_that_is_no_answer_is_told_as_what_it_is

.PHONY: help demo test test-cluster test-kernel test-pages test-ship test-again newest soak check site format bench bench-full man wheel image image-lock clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.installed ## build a bundle from an embedded registry, push it into another, verify it
	@$(BIN)/python -m syncer.demo

# The tests start the command hundreds of times, which would compile it anew each time where no bytecode is written.
test test-again test-cluster: export PYTHONDONTWRITEBYTECODE :=

test: $(VENV)/.tested tools ## set up what the tests need, and run them on all cores
	$(PYTEST) --numprocesses auto

test-again: ## what failed in the last `make test`, each test alone: three at most, which are to be mended all the same
	@test "$$(grep -c :: .pytest_cache/v/cache/lastfailed)" -le 3
	$(PYTEST) --last-failed --last-failed-no-failures none --timeout 300

test-cluster: $(VENV)/.tested tools ## the tests with processes of a Dask cluster
	$(PYTEST) -m cluster --numprocesses auto

test-kernel: $(VENV)/.tested tools ## TLS in the kernel: in a virtual machine, where this kernel has none
	@sh tests/install-tools.sh strace
	sh tests/with-kernel-tls.sh $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -m 'not soak' --timeout 300 \
		tests/test_kernel_tls.py tests/test_tls_connections.py

test-pages: $(VENV)/.tested ## the page of a report in headless Chromium, and the queries of the dashboard in Prometheus
	@sh tests/install-tools.sh chromium prometheus
	$(PYTEST) -m pages

test-ship: $(VENV)/.tested ship-tools ## the container image, run for real, the Helm chart, and the release workflow
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'kubernetes-validate>=1.33'
	PATH="$(CURDIR)/build/bin:$$PATH" $(PYTEST) -m ship --timeout 600 --numprocesses auto --dist loadfile

newest: tools ## the registry and Palette's API once more, with the newest aiohttp
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable '.[test-tools]' aiohttp
	$(NEWEST)/bin/python -m pytest $(wildcard tests/test_serve_*.py) $(patsubst %,tests/test_palette_%.py,api login network round_trip) \
		--deselect tests/test_palette_api.py::$(MOCKED)

soak: $(VENV)/.tested tools ## the long tests: random kills of syncer and registries, a stalled scanner, a bundle larger than memory
	$(PYTEST) -m soak --timeout 1800

check: $(VENV)/.tested ## lint, types, and whether the site of the pages builds
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@$(MAKE) --no-print-directory site

site: $(VENV)/.tested ## the pages as a site, in build/site; a warning is an error
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning -c docs . build/site

format: $(VENV)/.tested ## let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.tested tools ## what it costs, side by side with the peers on PATH (a few minutes)
	$(BIN)/python -m benchmarks run --quick

ROUNDS ?= 5

bench-full: $(VENV)/.tested tools ## every corpus and scenario, for the record (two to three hours); WORK=night: only that again
	$(BIN)/python -m benchmarks run --full --rounds $(ROUNDS) --output benchmarks/results $(if $(WORK),--work "$(WORK)" --keep)

man: $(VENV)/.installed ## docs/syncer.1, the manual page, of the text of --help
	$(BIN)/python -m syncer man > docs/syncer.1

wheel: $(VENV)/.installed ## dist/oci_syncer-VERSION-py3-none-any.whl, to be installed elsewhere
	@rm -f dist/oci_syncer-*.whl
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

image: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
image: wheel ## a small image with that wheel, from Debian's packages, into dist/ (IMAGE=NAME:TAG; BASE_IMAGE=… builds on that)
ifdef BASE_IMAGE
	@test -n "$(BUILDER)" || { echo "image: found none of podman, buildah and docker; name one: make image BUILDER=…" >&2; exit 1; }
	$(BUILDER) build --file Containerfile --build-arg BASE=$(BASE_IMAGE) --tag $(IMAGE) dist
else
	$(BIN)/python scripts/image.py --wheel dist/oci_syncer-*.whl --name $(IMAGE) --output $(IMAGE_FILE)
endif

image-lock: $(VENV)/.installed ## write down the newest libraries for the image: scripts/image-requirements.txt
	$(BIN)/python scripts/image.py --lock

.PHONY: tools
tools: ## Debian's registry, skopeo, zstd: installed when we may, else named by what skips
	@sh tests/install-tools.sh

.PHONY: ship-tools
ship-tools: tools ## helm and actionlint, built by go into build/bin where they are not on PATH
	@sh tests/install-ship-tools.sh build/bin

$(VENV)/.installed: pyproject.toml
	@echo "installing syncer into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check,docs]'
	@touch $@

clean: ## remove everything that these commands made
	rm -rf $(VENV) $(NEWEST) build dist output .mypy_cache .pytest_cache .ruff_cache .hypothesis
