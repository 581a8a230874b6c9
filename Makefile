# Two commands on a bare Debian 12 machine: `make run` shows it, `make test` proves it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

JOBS ?= $(shell nproc)
TESTS ?= tests
BIN := .venv/bin
GUEST := .run/cache/guest.qcow2

.PHONY: help
help: ## This list
	@echo "basecache: the image cache of a fleet of hypervisor hosts"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: .venv/run.stamp ## See it work on a real image (IMAGE=path-or-URL takes another)
	@scripts/need-packages run
	@scripts/need-packages boot || echo "going on without: the disk will not be booted"
	@[ -n "$(IMAGE)" ] || $(MAKE) --no-print-directory guest
	@scripts/demo $(if $(IMAGE),'$(IMAGE)',$(GUEST))

.PHONY: venv
venv: .venv/run.stamp ## The environment alone; the command is then .venv/bin/basecache
	@echo ".venv/bin/basecache"

.PHONY: test
test: .venv/dev.stamp services guest ## Everything the tests need, then all tests (TESTS= for some)
	@scripts/need-packages run boot test
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(TESTS)

.PHONY: check
check: .venv/dev.stamp ## Style, types, and the rules of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_house_rules.py

.PHONY: bench
bench: .venv/dev.stamp ## Measure against named tools; writes docs/performance.md
	@scripts/need-packages run test
	$(BIN)/python benchmarks/run.py

.PHONY: docs
docs: .venv/dev.stamp ## The documentation, as HTML in docs/_build/html
	$(BIN)/python docs/generate_options.py docs/reference/options.md
	$(BIN)/python docs/generate_commands.py docs/reference/commands.md
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: services
services: .services/services.stamp ## The real servers the tests start (Glance, Keystone), in .services
	@:

.PHONY: guest
guest: $(GUEST) ## The small bootable image that `make run` and the tests use
	@:

.PHONY: lock
lock: .run/pip-tools/stamp ## Pin the dependencies anew (UPGRADE=1 takes the newest versions)
	PATH=$(CURDIR)/.run/pip-tools/bin:$$PATH scripts/lock-requirements $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove everything made here
	rm -rf .venv .services .run docs/_build docs/reference/options.md docs/reference/commands.md build \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/run.stamp: requirements/run.txt pyproject.toml
	@scripts/make-venv .venv requirements/run.txt .
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/run.stamp
	@scripts/make-venv .venv requirements/dev.txt
	@touch $@

.services/services.stamp: requirements/services.txt
	@scripts/need-packages venv services
	@scripts/make-venv .services requirements/services.txt
	@touch $@

.run/pip-tools/stamp: requirements/lock.txt
	@scripts/make-venv .run/pip-tools requirements/lock.txt
	@touch $@

$(GUEST): scripts/build-guest-image
	@scripts/need-packages run image
	@echo "building $@"
	@scripts/build-guest-image $@
