# BERT-and-Friends (gokulsg/BERT-and-Friends): on each of three datasets three teachers, and a student of two layers that
# learns from one teacher, from another, and from both. Three seeds, each with its control without a teacher.

FRIENDS_DATA    := massive emotion sst2
ifdef SMALL
friends_MODELS  := bert=$(SMALL)/all-MiniLM-L6-v2 distilbert=$(SMALL)/minilm-l6-as-distilbert distilroberta= tiny=cnn
FRIENDS_TEACHER := --lr 2e-4
FRIENDS_STUDENT := --augment 2 --epochs 3 --lr 2e-3 --batch-size 128
else
friends_MODELS  := bert=bert-base-uncased distilbert=distilbert-base-uncased distilroberta=distilroberta-base \
                   tiny=google/bert_uncased_L-2_H-128_A-2
FRIENDS_TEACHER := --lr 5e-5
FRIENDS_STUDENT := --augment 4 --epochs 10 --lr 5e-4
endif
FRIENDS_SEEDS   := 3

# A teacher that has learned enough, and no more than an hour allows: sst2 has 67,349 phrases, massive 60 classes.
friends_epochs_massive := --epochs 4
friends_epochs_emotion := --epochs 2
friends_epochs_sst2    := --epochs 1 $(if $(SMALL),--max-train 20000)
friends_take_sst2      := $(if $(SMALL),--max-train 20000)

friends_teachers := $(call roles,friends,bert distilroberta distilbert)
# Theirs: alpha 0.5, T 3, the terms of two teachers summed. Here the teachers' probabilities are averaged.
friends_distill   = distill.py --data $(1) --student $(call model,friends,tiny) --temperature 3 --alpha 0.9 \
                    --seeds $(FRIENDS_SEEDS) $(FRIENDS_STUDENT) $(friends_take_$(1)) $(TRAINED)

# $(call friends_on,DATA)
define friends_on
$(foreach role,$(friends_teachers),$(call step,friends/$(1)/$(role),train.py --model $(call model,friends,$(role)) \
    --data $(1) $(FRIENDS_TEACHER) $(friends_epochs_$(1)) $(TRAINED)))
$(call step,friends/$(1)/kd-bert,$(friends_distill) --teacher $(call in_system,friends/$(1)/bert) --control)
$(if $(filter distilbert,$(friends_teachers)),
$(call step,friends/$(1)/kd-distilbert,$(friends_distill) --teacher $(call in_system,friends/$(1)/distilbert))
$(call step,friends/$(1)/kd-both,$(friends_distill) --teacher $(call in_system,friends/$(1)/bert friends/$(1)/distilbert)))
$(call step,friends/$(1)/report,evaluate.py $(call folders,friends/$(1)) --data $(1) --baseline bert $(REPORTED))
endef
$(foreach data,$(FRIENDS_DATA),$(eval $(call friends_on,$(data))))
