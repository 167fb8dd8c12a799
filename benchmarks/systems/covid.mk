# COVID-19 tweets in five classes (IdanKanat/COVID_NLP_Advanced_DL_Project): two checkpoints of tweets, each with searched
# hyper-parameters, then pruned, quantized and distilled.

ifdef SMALL
covid_MODELS   := roberta=$(SMALL)/all-MiniLM-L6-v2 bertweet=$(SMALL)/minilm-l6-as-distilbert student=teacher:layers=0,2,5
COVID_SEARCH   := --trials 4 --epochs 2 --max-train 2500
COVID_TEACHER  := --epochs 2
COVID_COMPRESS := roberta
COVID_STUDENT  := --lr 1e-4 --epochs 2
else
covid_MODELS   := roberta=cardiffnlp/twitter-roberta-base bertweet=vinai/bertweet-base student=arampacha/roberta-tiny
COVID_SEARCH   := --trials 12 --epochs 3
COVID_TEACHER  := --epochs 6
COVID_COMPRESS := roberta bertweet
COVID_STUDENT  := --augment 2 --lr 2e-4 --epochs 5
endif
COVID_TRACK    := --wandb disabled

covid_data     := --data corona_tweets
covid_original  = --model $(SYSTEMS)/covid/$(1)/teacher $(covid_data)
covid_recover  := --epochs 1 --teacher self --lr 5e-5

# $(call covid_on,ROLE). Optuna searches learning rate, batch size, weight decay, warm-up, dropout and frozen layers.
define covid_on
$(call step,covid/$(1)/search,search.py train $(COVID_SEARCH) --minutes 0 --model $(call model,covid,$(1)) $(covid_data) \
    $(COVID_TRACK) $(TRAINED))
$(call step,covid/$(1)/teacher,benchmarks/systems/train_best.py --search $(SYSTEMS)/covid/$(1)/search \
    --model $(call model,covid,$(1)) $(covid_data) $(COVID_TEACHER) $(TRAINED))
$(if $(filter $(1),$(COVID_COMPRESS)),
$(call step,covid/$(1)/int8,quantize.py $(covid_original) --force)
$(call step,covid/$(1)/magnitude-40,prune.py weights $(covid_original) --method magnitude --sparsity 0.4)
$(call step,covid/$(1)/pruned,prune.py $(covid_original) --heads 0.5 --ffn 0.5 --refit $(covid_recover) $(TRAINED))
$(call step,covid/$(1)/student,distill.py --teacher $(SYSTEMS)/covid/$(1)/teacher --student $(call model,covid,student) \
    $(covid_data) $(COVID_STUDENT) $(TRAINED) --control))
$(call step,covid/$(1)/report,evaluate.py $(call folders,covid/$(1)) $(covid_data) --baseline teacher $(REPORTED))
endef
$(foreach role,$(call roles,covid,roberta bertweet),$(eval $(call covid_on,$(role))))
