# GoEmotions in Ekman's six groups and neutral (Tal-Ko/ee046211-DL-Project, branch sentiment-analysis): four recurrent
# models from scratch, each searched with Optuna and then trained with three seeds. `words`: whose word vectors they start with.

ifdef SMALL
goemotions_MODELS := words=$(SMALL)/all-MiniLM-L6-v2
GOEMOTIONS_SEARCH := --trials 4 --epochs 2 --max-train 8000
GOEMOTIONS_FINAL  := --epochs 4
else
goemotions_MODELS := words=bert-base-uncased
GOEMOTIONS_SEARCH := --trials 20 --epochs 3 --max-train 20000
GOEMOTIONS_FINAL  := --epochs 8
endif
GOEMOTIONS_KINDS  := lstm gru xlstm rwkv
GOEMOTIONS_SEEDS  := 0 1 2
GOEMOTIONS_RARE   := --augment 2

# New versions of the texts of rare classes, in training only. The encoder's word table is in a tokenizer of its own.
goemotions_words  := $(call model,goemotions,words)
goemotions_train   = --model $(1) $(if $(goemotions_words),--words $(goemotions_words)) --data goemotions:ekman $(GOEMOTIONS_RARE)

# $(call goemotions_on,KIND)
define goemotions_on
$(call step,goemotions/search-$(1),search.py train $(GOEMOTIONS_SEARCH) --minutes 0 $(goemotions_train) $(TRAINED))
$(foreach seed,$(GOEMOTIONS_SEEDS),$(call step,goemotions/$(1)-$(seed),benchmarks/systems/train_best.py \
    --search $(SYSTEMS)/goemotions/search-$(1) $(goemotions_train) $(GOEMOTIONS_FINAL) $(EXTRA) --seed $(seed)))
endef
$(foreach kind,$(GOEMOTIONS_KINDS),$(eval $(call goemotions_on,$(kind))))
$(call step,goemotions/report,evaluate.py $(call folders,goemotions) --data goemotions:ekman $(REPORTED))
