"""The config.json of an encoder: what is written is read, and what it may not say."""

import json
import math
import subprocess
import sys

import pytest

from pocketbert.errors import UserError
from pocketbert.models.config import EncoderConfig
from small_models import FAMILIES, small_config


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_heads", [[4, 1, 2], [4, 4, 4]])
def test_config_survives_the_round_trip(family, num_heads):
    config = small_config(family, num_heads=num_heads)
    again = EncoderConfig.from_hf(json.loads(json.dumps(config.to_hf())))
    again.hf = {}
    assert again == config


@pytest.mark.parametrize("changes, complaint", [
    ({"model_type": "marian"}, "'marian' is not supported"), ({"model_type": ["bert"]}, "must be text"),
    ({"hidden_size": None}, "hidden_size is missing"), ({"hidden_size": -8}, "hidden_size is -8"),
    ({"hidden_size": 10**18}, "hidden_size is 1000"), ({"hidden_size": "wide"}, "'wide'"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"), ({"num_hidden_layers": 2.5}, "2.5"),
    ({"vocab_size": math.inf}, "vocab_size is inf"), ({"vocab_size": True}, "vocab_size is True"),
    ({"num_attention_heads": 999}, "head_size is 0"), ({"hidden_act": "swish"}, "'swish' is not supported"),
    ({"hidden_act": {}}, "hidden_act is"), ({"layer_norm_eps": math.nan}, "layer_norm_eps is nan"),
    ({"layer_norm_eps": -1}, "layer_norm_eps is -1"), ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
    ({"position_embedding_type": "relative_key"}, "'relative_key' is not supported"),
    ({"heads_per_layer": [4, 4]}, "one entry for each of the 3 layers"),
    ({"heads_per_layer": 4}, "heads_per_layer is 4"), ({"neurons_per_layer": [1, 2, -3]}, "neurons_per_layer is -3"),
    ({"stored_forms": ["a"]}, "stored_forms is"), ({"id2label": {"0": "a", "2": "b"}}, "must be 0, 1, 2"),
    ({"id2label": ["a"]}, "must be an object"), ({"pad_token_id": 60}, "not below vocab_size"),
    ({"id2label": None, "num_labels": 10**9}, "num_labels is 1000")])
def test_broken_config_is_one_line_that_names_the_file_and_the_key(changes, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        EncoderConfig.from_hf(small_config().to_hf() | changes, source="runs/x/config.json")
    assert str(error.value).startswith("runs/x/config.json: ") and "\n" not in str(error.value)


def test_roberta_without_room_for_a_position_is_refused():
    with pytest.raises(UserError, match="no position"):
        EncoderConfig.from_hf(small_config("roberta").to_hf() | {"max_position_embeddings": 2})


def test_configs_are_read_without_torch():
    program = ("import sys, pocketbert.models.config, pocketbert.models.recurrent_config\n"
               "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)
