"""Hugging Face folders of random weights."""

import pytest
import torch
import transformers

from small_models import small_config


def reference(config):
    """The model of `transformers` with the same sizes and random weights."""
    shared = {"vocab_size": 60, "pad_token_id": config.pad_token_id, "max_position_embeddings": 40, "num_labels": 3}
    if config.family == "distilbert":
        hf = transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=24, **shared)
        kind = transformers.DistilBertForSequenceClassification
    else:
        kinds = {"bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
                 "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification)}
        make, kind = kinds[config.family]
        hf = make(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
                  type_vocab_size=config.type_vocab_size, initializer_range=0.3, **shared)
    torch.manual_seed(3)
    model = kind(hf).eval()
    for tensor in model.parameters():
        tensor.data += 0.2 * torch.randn_like(tensor)
    return model


@pytest.fixture
def hf_folder(tmp_path, tokenizer):
    """A function that writes a Hugging Face folder of random weights and returns (folder, their model)."""
    def write(family, **options):
        theirs = reference(small_config(family))
        theirs.save_pretrained(tmp_path / family, **options)
        tokenizer.save(tmp_path / family)
        return tmp_path / family, theirs
    return write
