# The chain: train -> prune -> quantize, and distill, then evaluate. Each step writes a folder, and the target of its
# rule is the run.json in it, which is written last: `make all` continues a chain that was stopped, and does nothing
# when all folders are there.
#
#   make all                                      on the generated demo data
#   make all DATA=mine.csv EXTRA=--bf16           EXTRA: flags for every training step
#   make all DATA=mine.csv MODEL=sentence-transformers/all-MiniLM-L6-v2 STUDENT=teacher:layers=0,2,5 RUNS=runs/mine
#
# docs/guide/make.md explains the variables.

DATA     ?= demo
DATA_DIR ?= data
SEED     ?= 0

# ---- names that the user gives -----------------------------------------------------------------------------
# A file may be called `q&a.csv` or `it's (1).csv`. make passes such names through the environment, and the shell
# expands "$$DATA" in quotes, so no part of a name is run as a command. $(value ...): as typed, `a$b` is no variable.
override DATA       := $(value DATA)
override DATA_DIR   := $(value DATA_DIR)
override TEXT       := $(value TEXT)
override LABEL      := $(value LABEL)
override MAX_LENGTH := $(value MAX_LENGTH)
export DATA DATA_DIR TEXT LABEL MAX_LENGTH

# $(call plain,NAME): "_" in place of each character that is special to make or to the shell.
empty    :=
blank    := $(empty) $(empty)
tab      := $(empty)	$(empty)
define newline


endef
SPECIAL  := ' " ` & ; % $$ ( ) \# : * ? [ ] < > | ! ~ { } = , \ ^
replace   = $(eval PLAIN := $$(subst $(1),_,$$(PLAIN)))
plain     = $(strip $(eval PLAIN := $$(1))$(call replace,$$(blank))$(call replace,$$(tab))$(call replace,$$(newline)) \
            $(foreach character,$(SPECIAL),$(call replace,$$(character)))$(PLAIN))

# RUNS holds the folders of this chain. It is the beginning of every target, so it must be a plain name.
ifeq ($(origin RUNS),undefined)
RUNS := runs/$(or $(basename $(notdir $(patsubst %/,%,$(call plain,$(DATA))))),data)
endif
override RUNS := $(patsubst %/,%,$(value RUNS))
ifneq ($(call plain,$(RUNS)),$(RUNS))
$(error RUNS=$(RUNS): make cannot handle this name; use letters, digits and . _ - + / only)
endif
ifeq ($(filter-out . .. -%,$(notdir $(RUNS))),)
$(error RUNS=$(RUNS) must name a folder of its own, for example RUNS=runs/mine)
endif

# ---- settings ----------------------------------------------------------------------------------------------
ifeq ($(DATA),demo)
MODEL          ?= scratch:layers=4,hidden=128
# Counts words, pairs and triples: fast, but it needs many more texts than the 4,000 with a label.
STUDENT        ?= bag:ngrams=3,embedding=32,hidden=32,buckets=8192
TRAIN_FLAGS    ?= --epochs 15 --lr 6e-4 --patience 15
PRUNE_FLAGS    ?= --heads 0.5 --ffn 0.5 --epochs 4 --lr 5e-4
DISTILL_FLAGS  ?= --epochs 5 --lr 3e-3 --unlabelled demo:unlabelled
POCKET         ?= cnn:vocab=2000,embedding=64,hidden=64
POCKET_FLAGS   ?= --epochs 3 --lr 3e-3 --alpha 0.9 --unlabelled demo:unlabelled
PARETO_FLAGS   ?= --augment 0 --unlabelled demo:unlabelled
MINUTES        ?= 3
CONTROL_FLAGS  ?= --lr 1e-2
else
MODEL          ?= sentence-transformers/all-MiniLM-L6-v2
STUDENT        ?= teacher:layers=0,2,5
TRAIN_FLAGS    ?= --epochs 2 --lr 1e-4
PRUNE_FLAGS    ?= --heads 0.5 --ffn 0.5 --refit --epochs 1 --lr 1e-4 --teacher self
DISTILL_FLAGS  ?= --epochs 3 --lr 1e-4
POCKET         ?= cnn
POCKET_FLAGS   ?= --augment 4 --epochs 4 --lr 2e-3 --alpha 0.9 --batch-size 128
PARETO_FLAGS   ?=
MINUTES        ?= 60
endif
CONTROL_FLAGS  ?=
QUANTIZE_FLAGS ?=
EVALUATE_FLAGS ?=
override MODEL   := $(value MODEL)
override STUDENT := $(value STUDENT)
override POCKET  := $(value POCKET)
override BUDGET  := $(value BUDGET)
export MODEL STUDENT POCKET BUDGET

PYTHON    := .venv/bin/python
INSTALLED := $(if $(filter .venv/%,$(PYTHON)),.venv/.installed)

# ---- the steps ---------------------------------------------------------------------------------------------
STEPS    := teacher pruned int8 pruned-int8 student student-alone cnn pocket
FOLDERS  := $(STEPS:%=$(RUNS)/%/run.json)
REPORT   := $(RUNS)/report/results.md

# COMMON goes to every step, TRAINING to those that train.
COMMON   := --data "$$DATA" --data-dir "$$DATA_DIR" $(if $(TEXT),--text "$$TEXT") $(if $(LABEL),--label "$$LABEL") \
            $(if $(MAX_LENGTH),--max-length "$$MAX_LENGTH")
TRAINING := $(COMMON) --seed $(SEED) $(EXTRA)
DISTILL  := distill.py --teacher $(RUNS)/teacher --student "$$STUDENT" $(TRAINING) $(DISTILL_FLAGS)

CMD_teacher       := train.py --model "$$MODEL" --out $(RUNS)/teacher $(TRAINING) $(TRAIN_FLAGS)
CMD_pruned        := prune.py --model $(RUNS)/teacher --out $(RUNS)/pruned $(TRAINING) $(PRUNE_FLAGS)
# --force: a step of the chain writes int8 even where it is slower than fp32; the table says so.
CMD_int8          := quantize.py --model $(RUNS)/teacher --out $(RUNS)/int8 $(COMMON) --force $(QUANTIZE_FLAGS)
CMD_pruned-int8   := quantize.py --model $(RUNS)/pruned --out $(RUNS)/pruned-int8 $(COMMON) --force $(QUANTIZE_FLAGS)
CMD_student       := $(DISTILL) --out $(RUNS)/student
# The same flags, so that it makes as many steps as the student; a flag that is given twice has its last value.
CMD_student-alone := $(DISTILL) --out $(RUNS)/student-alone --alpha 0 $(CONTROL_FLAGS)
CMD_cnn           := distill.py --teacher $(RUNS)/teacher --student "$$POCKET" --out $(RUNS)/cnn $(TRAINING) \
                     $(POCKET_FLAGS) $(if $(UNLABELLED),--unlabelled $(UNLABELLED))
CMD_pocket        := quantize.py export --model $(RUNS)/cnn --out $(RUNS)/pocket --format onnx-int8 $(COMMON)
CMD_pareto        := search.py pareto --teacher $(RUNS)/teacher --budget "$$BUDGET" --minutes $(MINUTES) \
                     --out $(RUNS)/pareto $(COMMON) --seed $(SEED) $(PARETO_FLAGS) \
                     $(if $(UNLABELLED),--unlabelled $(UNLABELLED))
CMD_report        := evaluate.py $(STEPS:%=$(RUNS)/%) --out $(RUNS)/report $(COMMON) $(EVALUATE_FLAGS)

.PHONY: all table teacher pruned int8 student control pocket pareto report test test-unit test-end-to-end test-release web lint bench curves memory page kills \
        covid friends toolkit goemotions course clean help FORCE

all: $(REPORT)                            ## the whole chain; ends with the table that compares all models
	@echo "$(REPORT) is up to date: make table prints it"
table: $(REPORT)                          ## print the table again
	@sed -n '/^| model/,/^$$/p' $(REPORT)

teacher: $(RUNS)/teacher/run.json         ## fine-tune the teacher, or train it from scratch
pruned: $(RUNS)/pruned/run.json $(RUNS)/pruned-int8/run.json ## prune half of its heads and neurons; the same in int8
int8: $(RUNS)/int8/run.json               ## the teacher in int8
student: $(RUNS)/student/run.json         ## distill the teacher into a student
control: $(RUNS)/student-alone/run.json   ## the same student without a teacher
pocket: $(RUNS)/pocket/run.json           ## a convolutional student, exported to int8: the model to ship
pareto: $(RUNS)/teacher/run.json          ## the cheapest model inside BUDGET="keep>=0.97 size_mb<=2", in MINUTES
	$(call run,$(CMD_pareto))
report: $(REPORT)                         ## results.md, results.csv, results.json and pictures

# Print the words of a command line as the shell expands them, then run it.
run = @printf '%s ' $(PYTHON) $(1); echo; $(PYTHON) $(1)

$(RUNS)/%/run.json: $(RUNS)/.commands/% | $(INSTALLED)
	$(call run,$(CMD_$*))
$(RUNS)/teacher/run.json: $(RUNS)/.commands/data
$(foreach step,pruned int8 student student-alone cnn,$(RUNS)/$(step)/run.json): $(RUNS)/teacher/run.json
$(RUNS)/pruned-int8/run.json: $(RUNS)/pruned/run.json
$(RUNS)/pocket/run.json: $(RUNS)/cnn/run.json
$(REPORT): $(FOLDERS) $(RUNS)/.commands/report
	$(call run,$(CMD_report))

# .commands/STEP holds the command line of a step, one word a line. It changes only when the command line does, and then
# the step is made again.
define keep_command
	@mkdir -p $(@D)
	@printf '%s\n' $(1) > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
endef
$(RUNS)/.commands/%: FORCE
	$(call keep_command,$(CMD_$*))

# make deletes a target when Ctrl-C arrives just after it was written, but not a precious one. All these files are
# written in one step, so that they are whole whenever they are there.
.PRECIOUS: $(FOLDERS) $(REPORT) $(RUNS)/.commands/%

# The checksums of one's own data. (A file name with special characters cannot be a prerequisite in make.)
$(RUNS)/.commands/data: FORCE
	@mkdir -p $(@D)
	@for file in "$$DATA" "$$DATA"/*; do if [ -f "$$file" ]; then cksum -- "$$file"; fi; done > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# ---- five published systems, end to end ----------------------------------------------------------------------
covid:                                    ## COVID-19 tweets: searched, pruned, quantized, distilled
friends:                                  ## BERT and friends: one student from one teacher, another, both
toolkit:                                  ## the sentiment toolkit: QLoRA, and one model for eight languages
goemotions:                               ## LSTM, GRU, xLSTM and RWKV on the Ekman groups of GoEmotions
course:                                   ## the compression course: all its rows, clusters, distillation

# Each writes docs/results/NAME.md. Only the rules of the systems that are asked for are read.
SYSTEM := $(filter covid friends toolkit goemotions course,$(MAKECMDGOALS))
ifneq ($(SYSTEM),)
include benchmarks/systems/rules.mk
endif

# ---- the environment and the tests -------------------------------------------------------------------------
# A virtual environment with what the chain needs; tests and benchmarks add requirements-dev.txt.
.venv/.installed: requirements.txt requirements-onnx.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-onnx.txt
	@touch $@
.venv/.installed-app: requirements-app.txt .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-app.txt
	@touch $@
.venv/.installed-dev: requirements-dev.txt requirements-deploy.txt requirements-app.txt .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# What the page of `quantize.py export --format web` consists of, in the versions of package-lock.json.
BROWSER := pocketbert/quantization/browser
$(BROWSER)/node_modules/.package-lock.json: $(BROWSER)/package.json $(BROWSER)/package-lock.json
	npm ci --prefix $(BROWSER) --ignore-scripts --no-audit --no-fund
	@touch $@

# One process a core and one thread a process: threads of processes that share a core wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -n "$$(nproc 2>/dev/null || sysctl -n hw.ncpu || echo 2)"

test: .venv/.installed-dev                ## all tests
	$(PYTEST)
test-unit: .venv/.installed-dev           ## the tests of functions: under a minute
	$(PYTEST) -m "not end_to_end"
test-end-to-end: .venv/.installed-dev     ## the tests that run whole scripts, the chain and the Hub protocol
	$(PYTEST) -m end_to_end
test-release: .venv/.installed-dev web    ## a wheel in a new environment, pages in Chromium (needs package indexes)
	$(PYTHON) -m pytest -q tests/release
web: $(BROWSER)/node_modules/.package-lock.json ## what quantize.py export --format web copies, from npm (node, npm)
page: .venv/.installed-app                ## app.py: try, compare and translate in a browser, with the models below runs/
	@mkdir -p runs
	$(PYTHON) app.py --runs runs --data-dir "$$DATA_DIR"
lint: .venv/.installed-dev                ## ruff
	$(PYTHON) -m ruff check .
bench: .venv/.installed-dev               ## speed of scoring and training against transformers; MODEL and DATA as above
	$(PYTHON) benchmarks/transformers_speed.py --model "$$MODEL" $(COMMON)
curves: .venv/.installed-dev              ## macro-F1 that each importance keeps at each budget, without training
	$(PYTHON) benchmarks/importance.py --model "$$MODEL" $(COMMON)
memory: .venv/.installed-dev              ## what memory each way of fine-tuning needs, its time and score: docs/results/memory.md
	$(PYTHON) benchmarks/memory.py --model "$$MODEL" --data "$$DATA" --data-dir "$$DATA_DIR"

kills: .venv/.installed                   ## kill -9 at 100 random moments: do all commands go on?
	$(PYTHON) benchmarks/kills.py --kills 100

# Only files of ours are removed, by name, and then the folders that are empty.
OURS      := .unfinished_save config.json model.safetensors model.onnx openvino_model.xml \
             openvino_model.bin tokenizer.json run.json metrics.json
OURS_HERE := report.html results.md results.csv results.json score_size.png score_latency.png confusion.png training.png

clean:                                    ## remove this chain's models and report; all other files stay
	@for folder in $(STEPS:%=$(RUNS)/%); do \
	    if grep -qs '"script": "[a-z]*\.py"' $$folder/run.json || [ -d $$folder/.unfinished_save ]; then \
	        (cd $$folder && rm -rf $(OURS)); rmdir $$folder || true; \
	    fi; \
	done
	@if grep -qs '^# Results' $(REPORT); then (cd $(RUNS)/report && rm -f $(OURS_HERE)); rmdir $(RUNS)/report || true; fi
	@if [ -d $(RUNS)/.commands ]; then \
	    rm -f $(RUNS)/teacher_logits/????????????????.safetensors; \
	    rm -rf $(STEPS:%=$(RUNS)/.%.unfinished); \
	    (cd $(RUNS)/.commands && rm -f data data.new report report.new $(STEPS) $(STEPS:%=%.new)); \
	fi
	@rmdir $(RUNS)/teacher_logits $(RUNS)/.commands $(RUNS) 2>/dev/null || true
	@if [ -e $(RUNS) ]; then echo "$(RUNS) holds other files, which stay"; fi

help:                                     ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/' | sort
	@echo
	@printf 'now: MODEL=%s DATA=%s DATA_DIR=%s STUDENT=%s POCKET=%s RUNS=%s\n' "$$MODEL" "$$DATA" "$$DATA_DIR" "$$STUDENT" \
	    "$$POCKET" $(RUNS)
