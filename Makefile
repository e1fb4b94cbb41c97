# Every target makes or refreshes its own environment in $(VENV): Python and make are all it takes.

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= test,interop,ray
ARGS   ?=
WORKERS ?= 2
# Tests of one file stay in one process, and share what the file sets up. The longest come first.
XDIST  := --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder

comma  := ,
PY     := $(VENV)/bin/python
# One stamp for each set of extras. A stamp older than these files means: install again.
FULL   := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
BASE   := $(VENV)/.installed
INPUTS := pyproject.toml setup.py
# Exists only while pip writes. Found at the start, it tells of an install that was cut short.
BUSY   := $(VENV)/.installing

.PHONY: help demo test test-fast lint bench docs dist interpreter
.NOTPARALLEL:

help:
	@echo "make demo        train prompts on the shipped backbone and show what they learned (runs/demo)"
	@echo "make test        run the tests, in two processes (WORKERS=0: in one, as a debugger needs it);"
	@echo "                 ARGS='-k prompt' is passed to pytest"
	@echo "make test-fast   without the slow ones, for the loop before a commit; takes the same"
	@echo "make lint        check format, style and types"
	@echo "make bench       measure against PEFT and print one JSON object each"
	@echo "make docs        build the documentation into site/, without network; ARGS=serve shows it"
	@echo "make dist        build the wheel and the source distribution into dist/, and check both"
	@echo
	@echo "PYTHON=python3.12   the interpreter a new environment is made with (3.11 or newer)"
	@echo "VENV=.venv-312      the environment's folder"
	@echo "EXTRAS=test         without PyTorch: its comparisons are then skipped"

demo: $(BASE)
	$(VENV)/bin/dpt demo $(ARGS)

test: $(FULL)
	$(PY) -m pytest $(XDIST) $(ARGS)

# No fast test kills a process, which may leave a program half written: compiled programs are kept.
test-fast: export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/.programs
test-fast: $(FULL)
	$(PY) -m pytest -m "not slow" $(XDIST) $(ARGS)

lint: $(FULL)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(FULL)
	$(PY) benchmarks/train_step.py
	$(PY) benchmarks/epoch.py $(ARGS)
	$(PY) benchmarks/convert.py
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/fit.py

# Warnings are errors. `make docs ARGS=serve` builds again when a page changes.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs $(or $(ARGS),build) --strict

dist: $(VENV)/.installed-release
	rm -rf dist
	$(PY) -m build
	$(PY) .ci/check_dist.py dist
	$(PY) -m twine check --strict dist/*

# Checked on every call, because a stamp cannot know that PYTHON changed.
interpreter:
	@python="$(PYTHON)"; if [ -x "$(PY)" ]; then python="$(PY)"; fi; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dpt-jax needs Python 3.11 or newer, and $$python is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@if [ -e "$(BASE)" ] && ! "$(PY)" -c "" 2>/dev/null; then \
	  echo "$(VENV) no longer runs (its Python is gone): remove it and call make again" >&2; exit 1; fi
ifneq ($(origin PYTHON),file)
	@if [ -x "$(PY)" ]; then \
	  wanted=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
	  present=$$("$(PY)" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || exit 1; \
	  if [ "$$wanted" != "$$present" ]; then \
	    echo "$(VENV) holds Python $$present and PYTHON=$(PYTHON) is $$wanted. Remove $(VENV), or name another: VENV=.venv-$$wanted" >&2; \
	    exit 1; \
	  fi; \
	fi
endif

# An environment that cannot be trusted is made anew; pip's own cache keeps that cheap.
# A folder that is not an environment is never cleared. Byte code is made on all cores, which pip
# does not do; it fails for files that some packages ship for other versions of Python.
define install
	@if [ -e "$(BUSY)" ] || ! { "$(PY)" -m pip --version || "$(PY)" -m ensurepip; } >/dev/null 2>&1; then \
	  if [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then \
	    echo "VENV=$(VENV) exists and is not a Python environment: remove it or name another" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV). The first install downloads some gigabytes of packages and takes minutes."; \
	  "$(PYTHON)" -m venv --clear "$(VENV)" || exit 1; \
	fi; \
	trap 'exit 130' INT; touch "$(BUSY)" && \
	"$(PY)" -m pip install --disable-pip-version-check --no-compile --editable "$(1)"; status=$$?; \
	if [ $$status = 0 ]; then "$(PY)" -m compileall -qq -j 0 "$(VENV)/lib" || true; fi; \
	rm -f "$(BUSY)"; exit $$status
	@touch "$(BASE)" "$@"
endef

$(FULL): $(INPUTS) | interpreter
	$(call install,.[$(EXTRAS)])

$(VENV)/.installed-docs: $(INPUTS) | interpreter
	$(call install,.[docs])

$(VENV)/.installed-release: $(INPUTS) | interpreter
	$(call install,.[release])

# The rule above also satisfies this one: extras only add to the run-time packages.
$(BASE): $(INPUTS) | interpreter
	$(call install,.)
