"""Classifier: the answers of predict, in order; exported folders are answered without torch."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pocketbert import Classifier
from pocketbert.models.folder import load_model, save_model
from pocketbert.models.predict import predict
from pocketbert.quantization.export import export_graph
from small_models import TEXTS, random_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["torch", "onnx"])
def folder(request, tokenizer, tmp_path):
    model = random_model(vocab_size=max(tokenizer.vocab_size, 60))
    graph = None
    if request.param == "onnx":
        (tmp_path / "graph").mkdir()
        export_graph(model, "onnx", tmp_path / "graph")
        graph = ("onnx", tmp_path / "graph")
    save_model(model, tokenizer, tmp_path / "model", run={}, graph=graph)
    return str(tmp_path / "model")


def test_answers_are_those_of_predict_in_the_order_of_the_texts(folder):
    texts = [f"{text} {'very ' * i}" for i, text in enumerate(TEXTS)]
    model, tokenizer = load_model(folder)
    expected = predict(model, tokenizer(texts, 128), 4, tokenizer.pad_id).softmax(-1)
    answers = Classifier(folder, batch_size=4)(texts)
    found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for answer in answers:
        assert answer["score"] == max(answer["probabilities"].values())
        assert answer["probabilities"][answer["label"]] == answer["score"]


def test_one_text_is_one_answer_and_an_iterator_is_read_as_it_is_asked(folder):
    classify = Classifier(folder)
    [answer] = classify([TEXTS[0]])
    assert classify(TEXTS[0]) == answer and classify([]) == []
    read = []
    stream = classify(read.append(i) or TEXTS[0] for i in range(10_000))
    assert not read
    assert next(stream)["label"] == answer["label"] and len(read) < 10_000


def test_an_iterator_of_long_texts_is_read_in_small_chunks(folder):
    read = []
    stream = Classifier(folder)(read.append(i) or "so good " * 100_000 for i in range(9))
    next(stream)
    assert len(read) == 2


def test_threads_and_copies_answer_alike(folder):
    classify = Classifier(folder)
    expected = classify(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        assert all(answers == expected for answers in pool.map(classify, [TEXTS] * 8))
    assert pickle.loads(pickle.dumps(classify))(TEXTS) == expected


@pytest.mark.parametrize("folder", ["onnx"], indirect=True)
def test_an_exported_folder_is_answered_without_torch(folder):
    program = (f"import json, sys; from pocketbert import Classifier; print(json.dumps(Classifier({folder!r})"
               f"({TEXTS[:2]!r}))); print(sorted({{name.split('.')[0] for name in sys.modules}} & "
               "{'torch', 'safetensors', 'sklearn', 'scipy', 'matplotlib', 'huggingface_hub', 'transformers'}))")
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    answers, modules = run.stdout.splitlines()
    assert [answer["label"] for answer in json.loads(answers)] == [a["label"] for a in Classifier(folder)(TEXTS[:2])]
    assert modules == "[]"
