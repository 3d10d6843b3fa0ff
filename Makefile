# What one does here, by name. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
PYTHON := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Both processors, a file at a time; those of the browser, which take longest, come first.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
EXPERIMENT ?= experiments/quick.yml
# The tests that follow each other build it once.
IMAGE := /var/lib/ksm-testbed/images/current

.PHONY: help
help: ## list what can be made
	@echo "KSM testbed: what Kernel Samepage Merging saves on this host, and what it costs."
	@echo
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo "  make demo EXPERIMENT=experiments/other.yml   the same for another definition"

# Debian's python3 comes without venv; where it is missing, it is installed.
$(VENV)/.installed: requirements.lock pyproject.toml
	@echo "Building the environment in $(VENV) (about a minute) ..."
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { apt-get update -q && apt-get install -qy python3-venv; }
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q --require-hashes -r requirements.lock
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(VENV)/.installed ## build the environment in .venv

.PHONY: demo
demo: setup ## the main job: provision, build, run, report (changes this machine; needs root)
	$(PYTHON) -m ksm_analysis run $(EXPERIMENT)

.PHONY: teardown
teardown: setup ## restore the host: knobs, guests, image, services
	ansible-playbook playbooks/teardown.yml

.PHONY: lint lint-python lint-ansible
lint: setup ## style, types, imports, roles, modules, links: ruff, mypy, import-linter, yamllint, ansible-lint, ansible-test, Sphinx
	$(MAKE) --jobs 2 --output-sync=target lint-ansible lint-python site

lint-python:
	ruff check
	ruff format --check
	lint-imports --no-logo
	mypy
	yamllint --strict .

lint-ansible:
	ansible-lint --offline
	tests/sanity/validate-modules

# All of it each time: a link may be broken by a change at its other end.
.PHONY: site
site: setup ## the documents as a site in build/site; a broken link is an error
	rm -rf build/site
	sphinx-build -q -E -W --keep-going -d build/doctrees -c docs . build/site
	cp build/site/README.html build/site/index.html

.PHONY: role-docs
role-docs: setup ## update the tables in the READMEs of roles from their argument specs
	$(PYTHON) docs/role_tables.py

.PHONY: docs
docs: setup browser ## make the pictures of the page in the documents again, from docs/results
	$(PYTHON) docs/pictures.py

.PHONY: test-unit
test-unit: setup ## the fast tests, in seconds
	$(PYTHON) -m pytest -m 'not host and not browser' $(PARALLEL)

.PHONY: browser
browser: # Debian's Chromium, for the tests of the page
	@command -v chromium >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends chromium; }

# What others do not disturb. The tests of the monitor and of images need what the roles have installed, and come last.
.PHONY: test-beside
test-beside: setup browser
	failed=; $(MAKE) lint || failed=yes; \
	$(PYTHON) -m pytest -m 'not host' $(PARALLEL) || failed=yes; \
	$(PYTHON) -m pytest -m beside || failed=yes; test -z "$$failed"

# They run beside those that use this machine's KSM and libvirt, which mostly wait, and at lower priority.
.PHONY: test
test: setup browser ## every test: lint, unit, page, roles, and the host with real guests (needs root)
	@mkdir -p build
	@echo "Lint, the unit tests, those of the page and those of the monitor run beside the following: build/beside.log"
	setsid --wait tests/low_priority $(MAKE) test-beside >build/beside.log 2>&1 & beside=$$!; \
	trap 'kill -- -$$beside; exit 130' INT TERM; \
	found=$$(test -e $(IMAGE) && echo true || echo false); failed=; \
	{ KSM_KEEP_IMAGE=true $(MAKE) test-roles && KSM_KEEP_IMAGE=$$found $(MAKE) test-host HOST='host and not beside'; } || failed=yes; \
	wait $$beside || failed=yes; \
	cat build/beside.log; test -z "$$failed"

.PHONY: test-host
test-host: setup ## the whole job on this machine with real guests, which is restored (needs root)
	$(PYTHON) -m pytest -m '$(or $(HOST),host)'

.PHONY: test-roles
test-roles: setup ## the roles on this machine, by Molecule and testinfra (needs root)
	molecule test --scenario-name default

.PHONY: box
box: setup ## build the Vagrant box build/box/ksm-host.box from our own image (needs root)
	ansible-playbook playbooks/box.yml

.PHONY: vagrant
vagrant: # Debian's Vagrant with its libvirt provider
	@command -v vagrant >/dev/null && test -e /usr/share/doc/vagrant-libvirt || { apt-get update -q && \
	  apt-get install -qy --no-install-recommends dnsmasq-base libvirt-clients libvirt-daemon-system \
	  qemu-system-x86 vagrant vagrant-libvirt; }

.PHONY: test-vagrant
test-vagrant: box vagrant ## the whole job on two Vagrant machines, in a network of its own (needs root)
	KSM_VAGRANT_MODULES=$$($(PYTHON) -c 'import molecule_plugins.vagrant.modules as m; print(*m.__path__)') \
	  molecule/vagrant/in_namespace molecule test --scenario-name vagrant

.PHONY: bench
bench: setup ## the figures of speed, side by side (needs root)
	$(PYTHON) -m bench

.PHONY: lock
lock: setup ## update requirements.lock from pyproject.toml
	$(PYTHON) -m pip install -q uv
	uv pip compile --universal --python-version 3.11 --extra test --extra bench --extra scale --extra remote --generate-hashes \
	  --no-header --no-annotate --quiet --upgrade --output-file requirements.lock pyproject.toml
