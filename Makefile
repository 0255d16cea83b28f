# make demo · make models · make test · make lint · make bench · make docs · make clients
# Each target makes its own virtual environment first, once.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
VENV5  := $(VENV)-transformers5

.PHONY: demo models test lint bench docs clients clean

demo: $(READY)
	$(BIN)/memoir-edge demo

# Real models that tests and benchmarks ask for; they fetch them by themselves, too.
models: $(READY)
	$(BIN)/python tools/models.py

# Everything, after the editor alone with the next transformers: optimum-onnx caps the first one.
test: $(READY) $(VENV5)/.ready
	$(VENV5)/bin/pytest -q -m "not slow" tests/editor
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tools/bench_end_to_end.py
	$(BIN)/python tools/bench_editor.py
	for part in scan million model; do $(BIN)/python tools/bench_ops.py $$part || exit 1; done
	$(BIN)/python tools/load_swap.py
	$(BIN)/python tools/soak.py
	$(BIN)/python tools/bench_serve.py

# The parts of the pages that the program itself writes: command help, demo output, tree, pictures of the console.
docs: $(READY)
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/console.py pictures

# Other projects' clients, which tests ask the server with; they would not go together with ours.
clients: .clients/.ready

.clients/.ready: $(wildcard tests/runtime/serve/clients/*.txt tests/runtime/serve/clients/*.json)
	$(PYTHON) -m venv .clients
	.clients/bin/pip install -q -r tests/runtime/serve/clients/requirements.txt
	cp tests/runtime/serve/clients/package.json .clients && npm install --silent --prefix .clients
	touch $@

$(READY): pyproject.toml constraints.txt $(wildcard runtime/ops/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[all,dev]"
	$(BIN)/python runtime/hatch_build.py
	touch $@

$(VENV5)/.ready: pyproject.toml constraints.txt constraints-transformers5.txt
	$(PYTHON) -m venv $(VENV5)
	grep -Ev "^(transformers|huggingface_hub|tokenizers|optimum)" constraints.txt > $(VENV5)/constraints.txt
	$(VENV5)/bin/pip install -q -c $(VENV5)/constraints.txt -r constraints-transformers5.txt \
		-e ".[edit,spread,run]" onnx onnxscript onnxruntime-genai hypothesis pytest
	touch $@

clean:
	rm -rf $(VENV) $(VENV5) .clients build dist
