# `make demo` and `make test` set everything up by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
export RAY_AUTH_MODE ?= disabled
export RAY_DATA_DISABLE_PROGRESS_BARS ?= 1
export AWS_REQUEST_CHECKSUM_CALCULATION ?= when_required

.PHONY: help setup format lint test golden demo demo-nircam demo-morphology demo-augment chaos fuzz clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(VENV)/.installed  ## build the virtual environment (first run: a few minutes)

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]' -c constraints.txt
	touch $@

format: setup  ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup  ## ruff, import rules, types, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright
	$(BIN)/codespell

test: lint  ## lint, then all tests: those with Ray in one process, the others beside them
	$(BIN)/python -m compileall -q engine models catalogs jobs tests  # a hundred processes import them
	$(BIN)/python -m pytest -n 2

golden: setup  ## rewrite the golden files; review the diff
	$(BIN)/python -m pytest tests --rewrite-golden

demo: setup  ## synthetic DESI release -> trained model -> published catalogue -> report
	$(BIN)/python -m jobs demo jobs/configs/demo.toml

demo-nircam: setup  ## synthetic NIRCam mosaics -> trained band GAN -> published catalogue -> report
	$(BIN)/python -m jobs demo jobs/configs/demo_nircam.toml

demo-morphology: setup  ## synthetic galaxies -> denoiser -> disk classifier -> published catalogue -> report
	$(BIN)/python -m jobs demo jobs/configs/demo_denoiser.toml
	$(BIN)/python -m jobs demo jobs/configs/demo_morphology.toml

chaos: setup  ## let things go wrong at random moments of a reprocessing and compare what comes out (N=20, SEED=1)
	$(BIN)/python -m benchmarks.chaos --moments $(or $(N),20) --seed $(or $(SEED),1)

fuzz: setup  ## read damaged FITS files: rows or rejections, no crash, no hang, bounded memory (N=2000, SEED=1)
	$(BIN)/python -m benchmarks.fuzz_fits --cases $(or $(N),2000) --seed $(or $(SEED),1)

demo-augment: setup  ## synthetic Sersic galaxies -> trained flow -> catalogue of samples -> report
	$(BIN)/python -m jobs demo jobs/configs/demo_augment.toml

clean:  ## remove what make built, not what jobs wrote
	rm -rf $(VENV) build *.egg-info
