# The chain: train -> prune -> quantize, and distil, then evaluate. Each step is a folder; its run.json is the
# target, so a stopped `make all` goes on where it stopped and a finished one does nothing.
#
#   make all                                      on the generated demo data
#   make all DATA=mine.csv EXTRA=--bf16           with a flag for every training step
#   make all DATA=mine.csv MODEL=sentence-transformers/all-MiniLM-L6-v2 STUDENT=teacher:layers=0,2,5 RUNS=runs/mine

DATA     ?= demo
DATA_DIR ?= data
RUNS     ?= runs/$(basename $(notdir $(patsubst %/,%,$(subst :,-,$(DATA)))))
SEED     ?= 0

ifeq ($(DATA),demo)
MODEL          ?= scratch:layers=4,hidden=128
STUDENT        ?= scratch:layers=2,hidden=64,heads=2
TRAIN_FLAGS    ?= --epochs 9 --lr 6e-4
PRUNE_FLAGS    ?= --heads 0.5 --ffn 0.5 --epochs 2 --lr 5e-4
DISTILL_FLAGS  ?= --epochs 8 --lr 1e-3
else
MODEL          ?= sentence-transformers/all-MiniLM-L6-v2
STUDENT        ?= teacher:layers=0,2,5
TRAIN_FLAGS    ?= --epochs 2 --lr 1e-4
PRUNE_FLAGS    ?= --heads 0.5 --ffn 0.5 --refit --epochs 1 --lr 1e-4 --teacher self
DISTILL_FLAGS  ?= --epochs 3 --lr 1e-4
endif
QUANTIZE_FLAGS ?=
EVALUATE_FLAGS ?=

PYTHON   := .venv/bin/python
INSTALLED := $(if $(filter .venv/%,$(PYTHON)),.venv/.installed)
ifneq ($(word 2,$(DATA) )$(word 2,$(RUNS) ),)
$(error DATA and RUNS must not contain blanks: make cannot handle them)
endif
COMMON   := --data "$(DATA)" --data-dir "$(DATA_DIR)" $(if $(TEXT),--text "$(TEXT)") $(if $(LABEL),--label "$(LABEL)")
TRAINING := $(COMMON) --seed $(SEED) $(EXTRA)
TEACHER  := $(RUNS)/teacher/run.json
PRUNED   := $(RUNS)/pruned/run.json
INT8     := $(RUNS)/int8/run.json
PRUNED8  := $(RUNS)/pruned-int8/run.json
SMALL    := $(RUNS)/student/run.json
CONTROL  := $(RUNS)/student-alone/run.json
MODELS   := $(TEACHER) $(PRUNED) $(INT8) $(PRUNED8) $(SMALL) $(CONTROL)
REPORT   := $(RUNS)/report/results.md

CMD_teacher       := train.py --model "$(MODEL)" --out $(RUNS)/teacher $(TRAINING) $(TRAIN_FLAGS)
CMD_pruned        := prune.py --model $(RUNS)/teacher --out $(RUNS)/pruned $(TRAINING) $(PRUNE_FLAGS)
# --force: where int8 is slower than fp32, the table says so.
CMD_int8          := quantize.py --model $(RUNS)/teacher --out $(RUNS)/int8 $(COMMON) --force $(QUANTIZE_FLAGS)
CMD_pruned-int8   := quantize.py --model $(RUNS)/pruned --out $(RUNS)/pruned-int8 $(COMMON) --force $(QUANTIZE_FLAGS)
DISTILL           := distill.py --teacher $(RUNS)/teacher --student "$(STUDENT)" $(TRAINING) $(DISTILL_FLAGS)
CMD_student       := $(DISTILL) --out $(RUNS)/student
CMD_student-alone := $(DISTILL) --out $(RUNS)/student-alone --alpha 0
CMD_report        := evaluate.py $(dir $(MODELS)) --out $(RUNS)/report $(COMMON) $(EVALUATE_FLAGS)

.PHONY: all table teacher pruned int8 student control report test bench curves lint clean help FORCE
.DELETE_ON_ERROR:

all: $(REPORT)                            ## the whole chain; ends with the table that compares all models
	@echo "$(REPORT) is up to date: make table prints it"
table: $(REPORT)                          ## print the table again
	@sed -n '/^| model/,/^$$/p' $(REPORT)

teacher: $(TEACHER)                       ## fine-tune (or train from scratch) the teacher
pruned: $(PRUNED) $(PRUNED8)              ## prune half of its heads and neurons; the same in int8
int8: $(INT8)                             ## the teacher in int8
student: $(SMALL)                         ## distil it into the student
control: $(CONTROL)                       ## the same student without a teacher
report: $(REPORT)                         ## results.md, results.csv and pictures

$(RUNS)/%/run.json: $(RUNS)/.commands/% | $(INSTALLED)
	$(PYTHON) $(CMD_$*)
$(TEACHER): $(wildcard $(DATA) $(DATA)/*)
$(PRUNED) $(INT8) $(SMALL) $(CONTROL): $(TEACHER)
$(PRUNED8): $(PRUNED)
$(REPORT): $(MODELS) $(RUNS)/.commands/report
	$(PYTHON) $(CMD_report)

# What each step was asked for. The file changes only when the command does, and then the step is made again.
$(RUNS)/.commands/%: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(subst ','\'',$(CMD_$*))' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
.PRECIOUS: $(RUNS)/.commands/%

# A virtual environment with requirements.txt; tests and benches add requirements-dev.txt.
.venv/.installed: requirements.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
.venv/.installed-dev: requirements-dev.txt .venv/.installed
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

test: .venv/.installed-dev                ## unit and end-to-end tests
	$(PYTHON) -m pytest -q
lint: .venv/.installed-dev
	$(PYTHON) -m ruff check .
bench: .venv/.installed-dev               ## scoring and training speed against transformers; MODEL and DATA as above
	$(PYTHON) tests/bench_peers.py --model "$(MODEL)" $(COMMON)
curves: .venv/.installed-dev              ## macro-F1 kept by each importance at each budget, without training
	$(PYTHON) tests/bench_pruning.py --model "$(MODEL)" $(COMMON)

clean:                                    ## remove this chain's models and report
	rm -rf $(dir $(MODELS)) $(RUNS)/report $(RUNS)/teacher_logits $(RUNS)/.commands
	-rmdir $(RUNS)

help:                                     ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ -/' | sort
	@echo; echo "now: MODEL=$(MODEL) DATA=$(DATA) DATA_DIR=$(DATA_DIR) STUDENT=$(STUDENT) RUNS=$(RUNS)"
