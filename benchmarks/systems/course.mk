# ITMO's course on model compression (NeuroCrushers/model-compression-course): one fine-tuned BERT in eight forms, weights
# in clusters, and two students, on tweets in three classes.

ifdef SMALL
course_MODELS   := bert=$(SMALL)/all-MiniLM-L6-v2 distilbert=teacher:layers=0,2,5 tiny=cnn
COURSE_TEACHER  := --lr 1e-4 --epochs 2
COURSE_STUDENT  := --lr 1e-4 --epochs 3
COURSE_TINY     := --augment 4 --epochs 4 --alpha 0.9 --lr 2e-3 --batch-size 128
else
course_MODELS   := bert=bert-base-cased distilbert=distilbert-base-cased tiny=prajjwal1/bert-tiny
COURSE_TEACHER  := --lr 2e-5 --epochs 2
COURSE_STUDENT  := --lr 5e-5 --epochs 3
COURSE_TINY     := --augment 4 --epochs 4 --alpha 0.9 --lr 5e-4
endif
COURSE_RECOVER  := --epochs 1 --teacher self --lr 5e-5

course_data     := --data tweet_sentiment_extraction
course_original := --model $(SYSTEMS)/course/original $(course_data)
course_tiny     := distill.py --teacher $(SYSTEMS)/course/int8 --student $(call model,course,tiny) $(COURSE_TINY) \
                   $(course_data) $(TRAINED)

$(call step,course/original,train.py --model $(call model,course,bert) $(course_data) $(COURSE_TEACHER) $(TRAINED))

# Their eight rows. Their pruning and RigL set 10 % of the weights to zero; 50 % is what is worth storing.
$(call step,course/int8,quantize.py $(course_original) --force)
$(call step,course/random-10,prune.py weights $(course_original) --method random --sparsity 0.1)
$(call step,course/l1-10,prune.py weights $(course_original) --method magnitude --sparsity 0.1)
$(call step,course/l1-50,prune.py weights $(course_original) --method magnitude --sparsity 0.5 $(COURSE_RECOVER) $(TRAINED))
$(call step,course/rigl-10,prune.py weights $(course_original) --method rigl --sparsity 0.1 $(COURSE_RECOVER) $(TRAINED))
$(call step,course/onnx,quantize.py export $(course_original) --format onnx)
$(call step,course/openvino,quantize.py export $(course_original) --format openvino)

# Clusters, before and after training them, and the students. A control makes as many steps without a teacher.
$(call step,course/clusters-untrained,quantize.py $(course_original) --method clusters)
$(call step,course/clusters,quantize.py cluster $(course_original) $(COURSE_RECOVER) $(TRAINED))
$(call step,course/tiny,$(course_tiny))
$(call step,course/tiny-alone,$(course_tiny) --alpha 0)
$(call step,course/distilbert,distill.py --teacher $(SYSTEMS)/course/original --student $(call model,course,distilbert) \
    $(COURSE_STUDENT) $(course_data) $(TRAINED) --control)

$(call step,course/report,evaluate.py $(call folders,course) $(course_data) --baseline original $(REPORTED))
