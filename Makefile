# `make` lists what can be done. PYTHON=python3.12 chooses the interpreter of the virtual environment.

PYTHON ?= python3
SAN ?=
venv := .venv
bin := $(venv)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

comma := ,
empty :=
space := $(empty) $(empty)

# What the installed package depends on: how it is declared, and what is compiled.
recipe := pyproject.toml setup.py
native := $(wildcard csrc/include/*.h csrc/src/*.[ch]) csrc/Makefile csrc/fastproc.map csrc/fastproc.pc.in \
    src/fastproc/_native/_build.py $(wildcard src/fastproc/_native/*.[ch])
c_files := $(wildcard csrc/include/*.h csrc/src/*.[ch] csrc/tests/*.[ch] examples/*.c tests/programs/*.c \
    benchmarks/*.[ch] $(wildcard src/fastproc/_native/*.c) src/fastproc/_native/direct.h src/fastproc/_native/ledger.h)

.PHONY: help dev demo test test-python test-lesser check format test-c bench bench-quick bench-gate bench-publish soak \
    test-libraries clean
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 15

dev: $(venv)/.stamp-dev $(venv)/.stamp-native ## a virtual environment in .venv with everything for work on the project

demo: $(venv)/.stamp-native ## build, then run hundreds of real commands and a queue of tasks, hostile ones among them
	@PATH="$(abspath $(bin)):$$PATH" demo/run.sh

# The tests of the library, then those of the package, also when the first have failed: pytest has the last word.
# Three files at a time: most tests wait for something, and the whole of them one by one takes a quarter of an hour.
test: $(venv)/.stamp-native ## all tests but the slow ones
	@$(MAKE) -s --no-print-directory -C csrc test SAN= && c=0 || { c=1; echo "C TESTS HAVE FAILED, see above"; }; \
	$(bin)/python -m pytest -n 3 --dist loadfile $(PYTEST_ARGS) && exit $$c

# As a user would install it, in an environment of its own; what `make dev` has made stays as it is.
other := .venv-$(notdir $(PYTHON))
test-python: ## the same of pytest on another interpreter: make test-python PYTHON=python3.13
	@test -x $(other)/bin/python || $(PYTHON) -m venv $(other)
	$(other)/bin/python -m pip install -q '.[cli,queue,test]'
	$(other)/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-lesser: $(venv)/.stamp-native ## the tests of the core as on lesser kernels, a table; WORLDS="all pidfd" for some of them
	$(bin)/python -m tests.lesser $(WORLDS)

check: $(venv)/.stamp-dev $(venv)/.stamp-native ## format, lint, import rules, types, unit tests; before every commit
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/clang-format --dry-run -Werror $(c_files)
	$(bin)/lint-imports
	$(bin)/mypy
	$(bin)/python -m pytest -q tests/unit

format: $(venv)/.stamp-dev ## let the formatters decide the layout
	$(bin)/ruff check --select I --fix
	$(bin)/ruff format
	$(bin)/clang-format -i $(c_files)

# ASan and UBSan share a run; TSan goes alone.
san := $(subst $(comma),$(space),$(SAN))
runs := $(subst $(space),$(comma),$(strip $(filter-out thread,$(san)))) $(filter thread,$(san))
test-c: ## the C tests; SAN=address,undefined,thread runs them under these sanitizers
	@for san in $(or $(strip $(runs)),""); do \
	    echo "C tests, sanitizers: $${san:-none}"; \
	    $(MAKE) -s --no-print-directory -C csrc test SAN=$$san || exit 1; \
	done

bench: $(venv)/.stamp-bench $(venv)/.stamp-native ## measure speed against a bare loop in C and against what others use; minutes
	$(bin)/python benchmarks/run.py

bench-quick: $(venv)/.stamp-bench $(venv)/.stamp-native ## the same in a minute, less exact
	$(bin)/python benchmarks/run.py --quick

bench-gate: $(venv)/.stamp-bench $(venv)/.stamp-native ## what benchmarks/gates.toml judges; fails if a ratio of it is lost
	$(bin)/python benchmarks/run.py --gate

bench-publish: $(venv)/.stamp-bench $(venv)/.stamp-native ## take the newest full run of `make bench` into README.md and docs/
	$(bin)/python benchmarks/publish.py

soak: $(venv)/.stamp-native ## the slow tests: hundreds of thousands of starts, thousands alive at once
	$(bin)/python -m pytest -m slow --timeout=3600 -s $(PYTEST_ARGS)

test-libraries: $(venv)/.stamp-native ## the tests of libraries from PyPI, with the drop-in for subprocess installed
	$(bin)/python -m pytest -m slow tests/compat $(PYTEST_ARGS)

clean: ## remove what was built; .venv stays, and is refreshed when next needed
	rm -rf build dist csrc/build src/*.egg-info src/fastproc/_native/include src/fastproc/_native/lib
	rm -f src/fastproc/_native/_cffi*.so src/fastproc/_native/_direct*.so $(venv)/.stamp-*
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples demo -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# What pyproject.toml requires for a build is installed by name, so that later builds need no network
# and no environment of their own.
build_requires := $(shell sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ',"')
$(bin)/python:
	$(PYTHON) -m venv $(venv)
$(venv)/.stamp-install: $(recipe) | $(bin)/python
	$(bin)/python -m pip install -q $(foreach package,$(build_requires),'$(package)')
	$(bin)/python -m pip install -q --no-build-isolation -e '.[cli,test]'
	@touch $@
$(venv)/.stamp-dev: $(venv)/.stamp-install
	$(bin)/python -m pip install -q --no-build-isolation -e '.[dev]'
	@touch $@
# Contenders and pictures are asked for, not needed: without them the table says who is not there.
$(venv)/.stamp-bench: $(venv)/.stamp-install
	@$(bin)/python -m pip install -q --no-build-isolation -e '.[bench]' && touch $@ \
	    || echo "the extra 'bench' could not be installed: some contenders and the pictures will be missing"
$(venv)/.stamp-native: $(venv)/.stamp-install $(native)
	$(bin)/python setup.py -q build_ext --inplace
	@touch $@
