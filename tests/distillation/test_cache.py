"""The teachers' logits: computed once for each text, kept by text, in the order of the first teacher's labels."""

import pytest
import torch

from pocketbert.distillation.cache import cached_logits, open_teachers, teacher_logits
from pocketbert.errors import UserError
from pocketbert.models.folder import load_model, save_model
from pocketbert.quantization.export import export_graph
from small_models import LABELS, TEXTS, random_model


def saved(folder, tokenizer, **options):
    model = random_model(vocab_size=max(tokenizer.vocab_size, 60), **options)
    save_model(model, tokenizer, folder, run={})
    return str(folder)


def answers(folders, cache, texts=TEXTS, device="cpu"):
    return teacher_logits(open_teachers(folders), texts, cache, max_length=128, batch_size=4, device=device)


def test_logits_are_computed_once_for_each_text_whatever_the_order(tmp_path):
    asked = []

    def compute(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(text)), 0.0] for text in texts])

    cache = tmp_path / "logits.safetensors"
    first = cached_logits(cache, ["a", "bb", "a"], compute)
    second = cached_logits(cache, ["ccc", "bb", "\ud800"], compute)
    assert first.tolist() == [[1, 0], [2, 0], [1, 0]] and second.tolist() == [[3, 0], [2, 0], [1, 0]]
    assert asked == ["a", "bb", "ccc", "\ud800"]


def test_exported_teacher_stays_on_the_cpu_whatever_the_device(tmp_path, tokenizer):
    folder = saved(tmp_path / "teacher", tokenizer)
    model, _ = load_model(folder)
    (tmp_path / "graph").mkdir()
    export_graph(model, "onnx", tmp_path / "graph")
    save_model(model, tokenizer, tmp_path / "exported", run={}, graph=("onnx", tmp_path / "graph"))
    found = answers([folder, str(tmp_path / "exported")], tmp_path / "cpu")
    on_gpu = answers([str(tmp_path / "exported")], tmp_path / "gpu", device="cuda")
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(on_gpu[0], found[1])


def test_failed_write_leaves_the_cache_as_it_was_and_no_other_file(tmp_path):
    cache = tmp_path / "logits.safetensors"
    cached_logits(cache, ["a"], lambda texts: torch.zeros(1, 2))
    before = cache.read_bytes()
    with pytest.raises(RuntimeError):  # rows of different lengths cannot be stacked
        cached_logits(cache, ["b"], lambda texts: torch.zeros(1, 3))
    assert cache.read_bytes() == before and list(tmp_path.iterdir()) == [cache]


def test_logits_are_those_of_the_model_with_its_labels_in_the_first_teachers_order(tmp_path, tokenizer):
    folders = [saved(tmp_path / "teacher", tokenizer),
               saved(tmp_path / "other", tokenizer, seed=1, family="roberta", label_names=LABELS[::-1])]
    found = answers(folders, tmp_path / "cache")
    for row, folder in zip(found, folders, strict=True):
        model, own_tokenizer = load_model(folder)
        alone = torch.cat([model(torch.tensor(own_tokenizer([text], 128))) for text in TEXTS])
        expected = alone if folder == folders[0] else alone.flip(1)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_teacher_that_was_trained_again_or_cleans_texts_differently_is_asked_again(tmp_path, tokenizer):
    def with_cleaning(seed, cleaning):
        tokenizer.cleaning = cleaning
        folder = saved(tmp_path / "t", tokenizer, seed=seed)
        tokenizer.cleaning = "none"
        return answers([folder], tmp_path / "cache", ["@ann is late", "so good"])
    first = with_cleaning(3, "none")
    assert torch.equal(first, with_cleaning(3, "none"))
    assert not torch.allclose(first, with_cleaning(4, "none"))
    assert not torch.allclose(first[:, 0], with_cleaning(3, "cardiff")[:, 0])
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("names", [["bad", "good"], ["negative", "neutral", "positive", "mixed"],
                                   ["LABEL_0", "LABEL_1", "LABEL_2"]])
def test_teachers_of_different_labels_are_refused(tmp_path, tokenizer, names):
    folders = [saved(tmp_path / "teacher", tokenizer), saved(tmp_path / "other", tokenizer, label_names=names)]
    for order in (folders, folders[::-1]):
        with pytest.raises(UserError, match="all teachers of one student must have the same labels") as error:
            open_teachers(order)
        assert "negative, neutral, positive" in str(error.value) and ", ".join(names) in str(error.value)


@pytest.mark.parametrize("names, others, columns", [
    (LABELS, ["Positive ", "NEGATIVE", "neutral"], [1, 2, 0]), (["0", "1", "2"], ["2.0", "0.0", "1.0"], [1, 2, 0]),
    (["LABEL_0", "LABEL_1", "LABEL_2"], ["2", "1", "0"], [2, 1, 0])])
def test_teachers_whose_labels_differ_in_spelling_and_order_are_matched(tmp_path, tokenizer, names, others, columns):
    folders = [saved(tmp_path / "teacher", tokenizer, label_names=names),
               saved(tmp_path / "other", tokenizer, label_names=others)]
    assert [teacher.columns for teacher in open_teachers(folders)] == [[0, 1, 2], columns]
