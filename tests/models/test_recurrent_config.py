"""The config.json of a model without attention: what it may not say."""

import math

import pytest

from pocketbert.models.recurrent_config import RecurrentConfig
from small_models import RECURRENT, random_recurrent


@pytest.mark.parametrize("changes, complaint", [
    ({"model_type": "bert"}, "'bert' is not one of pocketbert-lstm"),
    ({"model_type": "lstm"}, "'lstm' is not one of"), ({"model_type": None}, "None is not one of"),
    ({"hidden_size": None}, "hidden_size missing"), ({"hidden_size": 0}, "hidden_size is 0"),
    ({"num_layers": "two"}, "'two'"), ({"vocab_size": [1]}, r"vocab_size is \[1\]"),
    ({"num_heads": 3}, "not a multiple"), ({"num_layers": 0}, "num_layers is 0"), ({"hidden_dropout": 1.5}, "1.5"),
    ({"id2label": {"0": "a", "2": "b"}}, "id2label"), ({"id2label": {}}, "no labels"),
    ({"id2label": [1]}, "id2label is"), ({"stored_forms": 3}, "stored_forms is 3"),
    ({"vocab_size": math.inf}, "vocab_size is inf"), ({"hidden_dropout": "0.1"}, "'0.1'"),
    ({"vocab_size": 10**18}, "vocab_size is 1000"), ({"num_layers": 10**9}, "num_layers is 1000"),
    ({"pad_token_id": -1}, "pad_token_id is -1"), ({"pad_token_id": 60}, "not below vocab_size"),
    ({"width": 4}, "width 4 is not odd"), ({"width": "3"}, "'3'"), ({"width": 0}, "width is 0"),
    ({"hidden_size": True}, "hidden_size is True"), ({"ngrams": 10**6}, "ngrams is 1000000"),
    ({"id2label": {"0": "a", "1": "a"}}, "same name"), ({"id2label": {"0": "a", "1": 7}}, "label 1 is 7")])
def test_broken_config_is_one_line_that_names_the_file(changes, complaint):
    hf = random_recurrent(RECURRENT["xlstm"]).config.to_hf() | changes
    with pytest.raises(ValueError, match=complaint) as error:
        RecurrentConfig.from_hf(hf, source="runs/x/config.json")
    assert str(error.value).startswith("runs/x/config.json: ") and "\n" not in str(error.value)


def test_folder_of_before_the_cnn_has_no_width_and_loads():
    for recipe in RECURRENT.values():
        model = random_recurrent(recipe)
        hf = model.config.to_hf()
        assert hf.pop("width") == (5 if model.config.kind == "cnn" else 3)
        again = RecurrentConfig.from_hf(hf)
        assert (again.width, again.num_layers) == (3, 2)
