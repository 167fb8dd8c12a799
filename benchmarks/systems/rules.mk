# `make covid | friends | toolkit | goemotions | course`: five published systems, each run from its data to a page.
#
# NAME.mk lists the steps of a system with the function `step`, NAME.toml holds what its authors published, and
# report.py writes docs/results/NAME.md from both. A step is one command of this project; its target is the file that the
# command writes last, so a chain that was stopped goes on, and a finished one does nothing.
#
#   make friends                                              the authors' checkpoints, from the Hub
#   make friends SMALL=weights DATA_DIR=data                  small ones: weights/all-MiniLM-L6-v2, ... (an hour, two cores)
#   make friends MODELS="bert=my/folder distilroberta="       another checkpoint for a role; none: its steps are left out
#   make friends SKIP="friends/sst2/%"                        without these steps
#
# MODELS and SKIP are text for make and the shell, like EXTRA: plain names only.

SYSTEMS := runs/systems
PAGES   := docs/results
SMALL   :=
SKIP    :=
MODELS  :=

# $(call step,NAME,COMMAND): a step whose command writes the folder NAME below SYSTEMS.
STEPS_OF_SYSTEM :=
step = $(if $(filter $(SKIP),$(1)),,$(eval STEPS_OF_SYSTEM += $(1))$(eval COMMAND_$(1) := $(2)))

# $(call model,SYSTEM,ROLE): what MODELS names for a role, or else the system's SYSTEM_MODELS. Empty: the role is not filled.
model = $(or $(patsubst $(2)=%,%,$(lastword $(filter $(2)=%,$($(1)_MODELS) $(MODELS)))),)

# $(call roles,SYSTEM,ROLES): those of the roles that are filled.
roles = $(foreach role,$(2),$(if $(call model,$(1),$(role)),$(role)))

# $(call folders,NAME): the model folders that the steps below NAME write, for evaluate.py. A student that was trained
# with --control has its control beside it, in NAME-alone.
in_system    = $(patsubst %,$(SYSTEMS)/%,$(1))
makes_models = $(filter-out search.py evaluate.py benchmarks/memory.py benchmarks/systems/languages.py,\
               $(firstword $(COMMAND_$(1))))
folders      = $(foreach name,$(filter $(1)/%,$(STEPS_OF_SYSTEM)),$(if $(call makes_models,$(name)),\
               $(call in_system,$(name) $(if $(filter --control,$(COMMAND_$(name))),$(name)-alone))))

# The flags of every step that trains, and of every report; make adds --out and --data-dir to each command.
TRAINED  = --seed $(SEED) $(EXTRA)
REPORTED = --quick $(EVALUATE_FLAGS)

include $(SYSTEM:%=benchmarks/systems/%.mk)

command = $(COMMAND_$(1)) --out $(call in_system,$(1)) --data-dir "$$DATA_DIR"

# The file that a step writes last. search.py draws its pictures when all trials are done.
last_of_search.py            := epochs.png
last_of_evaluate.py          := results.json
last_of_benchmarks/memory.py := memory.json
last_file = $(call in_system,$(1))/$(or $(last_of_$(firstword $(COMMAND_$(1)))),run.json)

# The last files of the steps whose folders, or files in them, the command of a step names.
needs = $(foreach other,$(filter-out $(1),$(STEPS_OF_SYSTEM)),$(if $(filter $(call in_system,\
        $(other) $(other)-alone $(other)/%.jsonl),$(COMMAND_$(1))),$(call last_file,$(other))))

define step_rule
$(call last_file,$(1)): $(SYSTEMS)/.commands/$(1) $(call needs,$(1)) | $(INSTALLED)
	$$(call run,$$(call command,$(1)))
endef
$(foreach name,$(STEPS_OF_SYSTEM),$(eval $(call step_rule,$(name))))

$(SYSTEMS)/.commands/%: FORCE
	$(call keep_command,$(call command,$*))

SYSTEM_FILES := $(foreach name,$(STEPS_OF_SYSTEM),$(call last_file,$(name)))
.PRECIOUS: $(SYSTEM_FILES) $(STEPS_OF_SYSTEM:%=$(SYSTEMS)/.commands/%)

$(SYSTEM): %: $(PAGES)/%.md
	@echo "$< is up to date"
$(foreach name,$(SYSTEM),$(eval $(PAGES)/$(name).md: $(filter $(SYSTEMS)/$(name)/%,$(SYSTEM_FILES))))
$(SYSTEM:%=$(PAGES)/%.md): $(PAGES)/%.md: benchmarks/systems/%.toml
	$(call run,benchmarks/systems/report.py $* --runs $(SYSTEMS)/$* --out $(PAGES))
