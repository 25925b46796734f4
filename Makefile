# Two commands: `make run` starts the console, `make test` proves it.
# Everything else that these need is in scripts/, in Python, with the standard library alone.

PYTHON ?= python3
PORT ?= 8000
HOST ?= 127.0.0.1

.PHONY: help run test prove lint lock

help:
	@echo "make run    start the console on http://$(HOST):$(PORT)  (PORT=8080 for another port)"
	@echo "make test   install what the tests need, then lint, types and all tests"
	@echo "make prove  hours of power cuts and fuzzing; VD_PROVE=1000 VD_FUZZ_SECONDS=60 for less"
	@echo "make lint   only the checks that start nothing"
	@echo "make lock   write the requirements files anew from the .in files (needs uv)"

run: export VDADMIN_HOST = $(HOST)
run: export VDADMIN_PORT = $(PORT)
run: python
	@$(PYTHON) scripts/bootstrap.py run

test: python
	@$(PYTHON) scripts/bootstrap.py test

prove: python
	@$(PYTHON) scripts/bootstrap.py prove

lint: python
	@$(PYTHON) scripts/bootstrap.py lint

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url requirements.in -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url requirements-dev.in -o requirements-dev.txt

.PHONY: python
python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "vdadmin needs Python 3.11 or newer, and there is no $(PYTHON) here: install python3 and python3-venv, or name one with PYTHON=…" >&2; \
		exit 1; }
