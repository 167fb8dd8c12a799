"""Tensor names: ours <-> Hugging Face's."""

import re

BERT_NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.*.attention.query": "encoder.layer.*.attention.self.query",
    "layers.*.attention.key": "encoder.layer.*.attention.self.key",
    "layers.*.attention.value": "encoder.layer.*.attention.self.value",
    "layers.*.attention.output": "encoder.layer.*.attention.output.dense",
    "layers.*.attention_norm": "encoder.layer.*.attention.output.LayerNorm",
    "layers.*.ffn.up": "encoder.layer.*.intermediate.dense",
    "layers.*.ffn.down": "encoder.layer.*.output.dense",
    "layers.*.ffn_norm": "encoder.layer.*.output.LayerNorm",
}

DISTILBERT_NAMES = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "layers.*.attention.query": "transformer.layer.*.attention.q_lin",
    "layers.*.attention.key": "transformer.layer.*.attention.k_lin",
    "layers.*.attention.value": "transformer.layer.*.attention.v_lin",
    "layers.*.attention.output": "transformer.layer.*.attention.out_lin",
    "layers.*.attention_norm": "transformer.layer.*.sa_layer_norm",
    "layers.*.ffn.up": "transformer.layer.*.ffn.lin1",
    "layers.*.ffn.down": "transformer.layer.*.ffn.lin2",
    "layers.*.ffn_norm": "transformer.layer.*.output_layer_norm",
}

BODY_NAMES = {"bert": BERT_NAMES | {"head.dense": "pooler.dense"}, "roberta": BERT_NAMES,
              "distilbert": DISTILBERT_NAMES}

HEAD_NAMES = {"bert": {"head.out": "classifier"},
              "roberta": {"head.dense": "classifier.dense", "head.out": "classifier.out_proj"},
              "distilbert": {"head.dense": "pre_classifier", "head.out": "classifier"}}

# Left-overs that a classifier does not use: heads of pre-training, RoBERTa's pooler, tables of positions, and
# the matrices of TinyBERT's distillation loss.
NOT_OURS = re.compile(r"^(cls|lm_head|vocab_transform|vocab_layer_norm|vocab_projector|fit_denses?)\."
                      r"|position_ids$|token_type_ids$|^pooler\.")


def to_hf_name(name, family):
    """layers.3.ffn.up.weight -> bert.encoder.layer.3.intermediate.dense.weight"""
    module, _, leaf = name.rpartition(".")
    star, number = re.sub(r"\.\d+\.", ".*.", module), re.search(r"\.(\d+)\.", module)
    if star in HEAD_NAMES[family]:
        return f"{HEAD_NAMES[family][star]}.{leaf}"
    body = BODY_NAMES[family][star].replace("*", number.group(1) if number else "")
    return f"{family}.{body}.{leaf}"


def from_hf_name(name, family):
    """The other way round, with or without the family's prefix, old gamma/beta too; None: not a name of ours."""
    name = name.removeprefix(f"{family}.")
    if "LayerNorm." in name:
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
    module, _, leaf = name.rpartition(".")
    star, number = re.sub(r"\.\d+\.", ".*.", module), re.search(r"\.(\d+)\.", module)
    theirs = {hf: ours for ours, hf in (BODY_NAMES[family] | HEAD_NAMES[family]).items()}
    if star not in theirs:
        return None
    return f"{theirs[star].replace('*', number.group(1) if number else '')}.{leaf}"
