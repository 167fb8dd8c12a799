# The multilingual sentiment toolkit (GVAmaresh/Multilingual-Sentiment-Analysis): a ready model of three classes, a model
# of one's own trained in full, with LoRA and with QLoRA, the memory that each takes, and one model for eight languages.

ifdef SMALL
toolkit_MODELS  := cardiff= own=$(SMALL)/all-MiniLM-L6-v2 multilingual=$(SMALL)/multilingual-e5-small
TOOLKIT_TRAIN   := --max-train 8000 --epochs 2
TOOLKIT_FULL    := --lr 1e-4
TOOLKIT_MEMORY  := --max-train 2000 --epochs 1
TOOLKIT_EIGHT   := --epochs 2 --lr 1e-4
else
toolkit_MODELS  := cardiff=cardiffnlp/twitter-roberta-base-sentiment-latest own=distilbert-base-uncased \
                   multilingual=intfloat/multilingual-e5-small
TOOLKIT_TRAIN   := --epochs 2
TOOLKIT_FULL    := --lr 5e-5
TOOLKIT_MEMORY  :=
TOOLKIT_EIGHT   := --epochs 3 --lr 1e-4
endif
TOOLKIT_LORA    := --lora-rank 8 --lr 1e-3
TOOLKIT_LANGUAGES := arabic english french german hindi italian portuguese spanish

toolkit_tweets  := --data tweet_sentiment_extraction
toolkit_eight   := --data multilingual_sentiment
toolkit_own     := train.py --model $(call model,toolkit,own) $(toolkit_tweets) $(TOOLKIT_TRAIN)

# Tweets in three classes. The ready model is opened as it is: no epoch of training.
$(if $(call roles,toolkit,cardiff),$(call step,toolkit/tweets/cardiff,train.py --model $(call model,toolkit,cardiff) \
    $(toolkit_tweets) --epochs 0))
$(call step,toolkit/tweets/full,$(toolkit_own) $(TOOLKIT_FULL) $(TRAINED))
$(call step,toolkit/tweets/lora,$(toolkit_own) $(TOOLKIT_LORA) $(TRAINED))
$(call step,toolkit/tweets/qlora,$(toolkit_own) $(TOOLKIT_LORA) --lora-base nf4 $(TRAINED))
$(call step,toolkit/tweets/report,evaluate.py $(call folders,toolkit/tweets) $(toolkit_tweets) --baseline full $(REPORTED))
$(call step,toolkit/memory,benchmarks/memory.py --model $(call model,toolkit,own) $(toolkit_tweets) $(TOOLKIT_MEMORY))

# Eight languages: only the word pieces that occur stay, then the model is fine-tuned, then stored in 4 bits.
$(call step,toolkit/words,prune.py --model $(call model,toolkit,multilingual) $(toolkit_eight) --vocab 1 --keep-characters seen)
$(call step,toolkit/eight/teacher,train.py --model $(SYSTEMS)/toolkit/words $(toolkit_eight) $(TOOLKIT_EIGHT) $(TRAINED))
$(call step,toolkit/eight/small,quantize.py --model $(SYSTEMS)/toolkit/eight/teacher $(toolkit_eight) --method nf4)
$(call step,toolkit/languages,benchmarks/systems/languages.py)
toolkit_compared := $(call folders,toolkit/eight) $(SYSTEMS)/toolkit/tweets/full
$(call step,toolkit/eight/report,evaluate.py $(toolkit_compared) $(toolkit_eight) --baseline teacher $(REPORTED))
$(foreach language,$(TOOLKIT_LANGUAGES),$(call step,toolkit/$(language)/report,evaluate.py $(toolkit_compared) \
    --test $(SYSTEMS)/toolkit/languages/$(language).jsonl --baseline teacher $(REPORTED)))
