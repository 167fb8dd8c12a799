"""load_model and load_dataset, end to end, on every layout in which the Hub holds what this project reads.

Each checkpoint here is small and random, made by `transformers`, and then laid out as the real repository of that
name is: which files there are, how the tensors are called, what config.json lacks. It is served on 127.0.0.1
beside files that nobody may ask for. The judge is `transformers`: same weights, same text, same ids and logits.
"""

import gzip
import json
import re
from dataclasses import dataclass, field

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
)

import hub_server
from data_utils import load_dataset
from pocketbert.data.datasets import DATASETS
from pocketbert.models.folder import load_model

hub = hub_server.hub                                        # the fixture
LABELS = ["bad", "so so", "good"]
ROWS = 34                                                   # of each position table
TEXTS = ["The thing is good, the good thing is not", "Das ist gut: naïve Café in Zürich",
         "@ann http://t.co/x so gooood!", "[MASK] and <mask>", "天气 \ttwo\nlines", "", "the good " * 40]

# Any repository may have these, and no PyTorch program needs them.
FOR_OTHERS = ("README.md .gitattributes tf_model.h5 flax_model.msgpack rust_model.ot special_tokens_map.json dict.txt "
              "onnx/model.onnx onnx/tokenizer.json onnx/config.json model.onnx").split()


# ---- vocabularies: the files in which each kind is published, and its reader in transformers ----

def uncased(folder):
    return wordpiece(folder, lowercase=True)


def cased(folder):
    return wordpiece(folder, lowercase=False)


def wordpiece(folder, lowercase):
    words = "the thing is good good not and das ist gut cafe zurich two lines".split()
    words += [] if lowercase else ["The", "Das", "Zürich", "Café"]
    letters = sorted(set("".join(words)) | set("@:/.,!"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *words]
    pieces = list(dict.fromkeys(pieces))
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    return transformers.BertTokenizer(vocab={p: i for i, p in enumerate(pieces)}, do_lower_case=lowercase)


def byte_bpe(folder):
    alphabet = sorted(ByteLevel.alphabet())
    merges = ["Ġ t", "h e", "Ġt he", "o o", "Ġ g", "Ġg oo", "Ġgoo d", "u s", "us e", "Ġ @", "t t"]
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(m.replace(" ", "") for m in merges), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return transformers.RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def bertweet(folder):
    letters = sorted(set("Thetingisod,DaugutnaïveCaféZürch!.:@USERHTPLw"))
    pieces = ["the", "th@@", "goo@@", "good", *letters, *(c + "@@" for c in letters)]       # no go@@: it is <unk>
    (folder / "vocab.txt").write_text("".join(f"{p} 7\n" for p in pieces), encoding="utf-8")
    (folder / "bpe.codes").write_text("t h 9\nth e</w> 8\ng o 7\ngo o 6\ngoo d</w> 5\n")
    return transformers.BertweetTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"), normalization=True)


def unigram(folder):
    words = [("▁", -4.0), ("▁the", -2.0), ("▁good", -2.5), ("▁is", -3.0), ("thing", -3.0), ("▁not", -3.5)]
    pieces = words + [(c, -6.0) for c in sorted(set("abcdefghilmnoprstuvwxyzTDCZïéü@:/.,!"))]
    raw = b"".join(protobuf(1, protobuf(1, p.encode()) + b"\x15" + torch.tensor(score).numpy().tobytes())
                   for p, score in [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces])
    (folder / "sentencepiece.bpe.model").write_bytes(raw)
    specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return transformers.XLMRobertaTokenizer(vocab=[*specials, *pieces, ("<mask>", 0.0)])


def protobuf(number, payload):
    """One length-delimited field."""
    return bytes([number << 3 | 2, len(payload)]) + payload


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """{kind: ({file name: bytes}, tokenizer of transformers)}. tokenizer.json is written by transformers."""
    root, made = tmp_path_factory.mktemp("vocabularies"), {}
    for make in (uncased, cased, byte_bpe, bertweet, unigram):
        folder = root / make.__name__
        folder.mkdir()
        theirs = make(folder)
        if make != bertweet:                                # which has no such file
            theirs.backend_tokenizer.save(str(folder / "tokenizer.json"))
        made[make.__name__] = {path.name: path.read_bytes() for path in folder.iterdir()}, theirs
    return made


# ---- checkpoints: as transformers writes them, then laid out as the Hub has them ----

def old_norms(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


POSITION_IDS = {"embeddings.position_ids": torch.arange(ROWS)[None]}                # int64, as old versions saved it
# TinyBERT was taught its teacher's hidden states through one matrix a layer, and the file still has them.
FIT_DENSES = {f"fit_denses.{i}.{leaf}": torch.zeros(size)
              for i in range(3) for leaf, size in (("weight", (40, 78)), ("bias", (40,)))}
BERT_POOLER = {"pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)}
BERT_TINY_KEYS = ("hidden_size hidden_act initializer_range vocab_size hidden_dropout_prob num_attention_heads "
                  "type_vocab_size max_position_embeddings num_hidden_layers intermediate_size "
                  "attention_probs_dropout_prob").split()
NEGATIVE_POSITIVE = {"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "label2id": {"NEGATIVE": 0, "POSITIVE": 1}}
SENTIMENT = {"id2label": {"0": "negative", "1": "neutral", "2": "positive"}}
UNCASED, CASED = {"do_lower_case": True, "model_max_length": 512}, {"do_lower_case": False, "model_max_length": 512}


@dataclass
class Layout:
    made_by: type                                           # the class whose tensors are in the file
    vocabulary: str
    asked: str                                              # the files that load_model must ask for, of those there
    beside: str = ""                                        # there too, but a better one is there
    fresh: str = ""                                         # the modules of the head that the file lacks
    rename: object = str                                    # tensor name of today -> tensor name in the file
    extra: dict = field(default_factory=dict)               # tensors in the file that no classifier uses
    config: dict = field(default_factory=dict)              # of config.json, where it matters
    keys: list | None = None                                # all that config.json has
    options: dict | None = None                             # tokenizer_config.json
    old_pickle: bool = False                                # the format of torch before 1.6, no zip file

    @property
    def model_type(self):
        return self.made_by.config_class.model_type


LAYOUTS = {
    "google-bert/bert-base-uncased": Layout(
        BertForPreTraining, "uncased", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin vocab.txt tokenizer_config.json", fresh="classifier", rename=old_norms,
        options=UNCASED),
    "google-bert/bert-base-cased": Layout(
        BertForPreTraining, "cased", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin vocab.txt tokenizer_config.json", fresh="classifier", rename=old_norms,
        options=CASED),
    "org/cased-without-tokenizer-json": Layout(
        BertForMaskedLM, "cased", "config.json model.safetensors tokenizer_config.json vocab.txt",
        fresh="bert.pooler.dense classifier", options=CASED),
    "google/bert_uncased_L-2_H-128_A-2": Layout(
        BertForPreTraining, "uncased", "config.json model.safetensors vocab.txt",
        beside="pytorch_model.bin", fresh="classifier"),
    "prajjwal1/bert-tiny": Layout(
        BertForPreTraining, "uncased", "config.json pytorch_model.bin vocab.txt", fresh="classifier",
        extra={f"bert.{k}": v for k, v in POSITION_IDS.items()}, keys=BERT_TINY_KEYS, old_pickle=True),
    "huawei-noah/TinyBERT_General_4L_312D": Layout(
        BertForPreTraining, "uncased", "config.json pytorch_model.bin vocab.txt", fresh="classifier", extra=FIT_DENSES,
        config={"hidden_size": 78, "num_attention_heads": 3, "intermediate_size": 50,                # head size 26
                "cell": {}, "emb_size": 78, "structure": [], "pre_trained": ""}),
    "sentence-transformers/all-MiniLM-L6-v2": Layout(
        BertModel, "uncased", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin vocab.txt tokenizer_config.json modules.json 1_Pooling/config.json",
        fresh="classifier", extra=POSITION_IDS, options=UNCASED),
    "microsoft/MiniLM-L12-H384-uncased": Layout(
        BertModel, "uncased", "config.json pytorch_model.bin tokenizer_config.json vocab.txt", fresh="classifier",
        options={}),
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": Layout(
        DistilBertForSequenceClassification, "uncased",
        "config.json model.safetensors tokenizer_config.json vocab.txt", beside="pytorch_model.bin",
        config={**NEGATIVE_POSITIVE, "finetuning_task": "sst-2"}, options=UNCASED),
    "distilbert/distilbert-base-multilingual-cased": Layout(
        DistilBertForMaskedLM, "cased", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin vocab.txt tokenizer_config.json", fresh="pre_classifier classifier", options=CASED),
    "FacebookAI/roberta-base": Layout(
        RobertaForMaskedLM, "byte_bpe", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin vocab.json merges.txt tokenizer_config.json",
        fresh="classifier.dense classifier.out_proj", extra={f"roberta.{k}": v for k, v in BERT_POOLER.items()},
        options={"model_max_length": 512}),
    "cardiffnlp/twitter-roberta-base": Layout(
        RobertaForMaskedLM, "byte_bpe", "config.json pytorch_model.bin vocab.json merges.txt",
        fresh="classifier.dense classifier.out_proj",
        extra={f"roberta.{k}": v for k, v in (BERT_POOLER | POSITION_IDS).items()}),
    "cardiffnlp/twitter-roberta-base-sentiment-latest": Layout(
        RobertaForSequenceClassification, "byte_bpe", "config.json pytorch_model.bin vocab.json merges.txt",
        config=SENTIMENT, extra={f"roberta.{k}": v for k, v in (BERT_POOLER | POSITION_IDS).items()}),
    "vinai/bertweet-base": Layout(
        RobertaForMaskedLM, "bertweet", "config.json pytorch_model.bin bpe.codes vocab.txt",
        fresh="classifier.dense classifier.out_proj", extra={f"roberta.{k}": v for k, v in POSITION_IDS.items()},
        config={"tokenizer_class": "BertweetTokenizer"}),
    "FacebookAI/xlm-roberta-base": Layout(
        XLMRobertaForMaskedLM, "unigram", "config.json model.safetensors tokenizer.json",
        beside="pytorch_model.bin sentencepiece.bpe.model tokenizer_config.json",
        fresh="classifier.dense classifier.out_proj", options={"model_max_length": 512}),
    "cardiffnlp/twitter-xlm-roberta-base-sentiment": Layout(
        XLMRobertaForSequenceClassification, "unigram", "config.json pytorch_model.bin sentencepiece.bpe.model",
        config=SENTIMENT),
    "org/sharded": Layout(
        BertForSequenceClassification, "uncased",
        "config.json model.safetensors.index.json SHARDS tokenizer.json", beside="pytorch_model.bin"),
    "org/sharded-pickle": Layout(
        RobertaForSequenceClassification, "byte_bpe", "config.json pytorch_model.bin.index.json SHARDS tokenizer.json"),
}
SIZES = {"vocab_size": 300, "max_position_embeddings": ROWS}
BERT_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
DISTILBERT_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40}
ROBERTA_SIZES = BERT_SIZES | {"type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
FAMILY_SIZES = {"bert": BERT_SIZES, "distilbert": DISTILBERT_SIZES, "roberta": ROBERTA_SIZES,
                "xlm-roberta": ROBERTA_SIZES}
CLASSIFIERS = {kind.config_class.model_type: kind for kind in (
    BertForSequenceClassification, DistilBertForSequenceClassification, RobertaForSequenceClassification,
    XLMRobertaForSequenceClassification)}
# A module of the head: its name in transformers -> ours.
HEADS = {"bert": {"bert.pooler.dense": "head.dense", "classifier": "head.out"},
         "distilbert": {"pre_classifier": "head.dense", "classifier": "head.out"},
         "roberta": {"classifier.dense": "head.dense", "classifier.out_proj": "head.out"}}
HEADS["xlm-roberta"] = HEADS["roberta"]


def write_checkpoint(layout, folder, vocabulary):
    """The files of the repository that have a meaning, in `folder`."""
    sizes = SIZES | FAMILY_SIZES[layout.model_type] | layout.config
    torch.manual_seed(0)
    model = layout.made_by(layout.made_by.config_class(**({} if "id2label" in sizes else {"num_labels": 3}) | sizes))
    for tensor in model.parameters():                       # far from zero, or a lost tensor would not show
        tensor.data += 0.2 * torch.randn_like(tensor)
    model.save_pretrained(folder)
    tensors = {layout.rename(name): t for name, t in load_file(folder / "model.safetensors").items()} | layout.extra
    (folder / "model.safetensors").unlink()
    write_weights(layout, tensors, folder)

    config = json.loads((folder / "config.json").read_text())
    config = {key: value for key, value in config.items() if key in (layout.keys or config)}
    (folder / "config.json").write_text(json.dumps(config))
    if layout.options is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(layout.options))
    for filename, content in vocabulary.items():
        if filename in f"{layout.asked} {layout.beside}".split():
            (folder / filename).write_bytes(content)


def write_weights(layout, tensors, folder):
    """One file, or an index and two shards."""
    weights = "pytorch_model.bin" if "pytorch_model.bin" in layout.asked else "model.safetensors"

    def write(part, filename):
        if weights == "model.safetensors":
            save_file(part, folder / filename, metadata={"format": "pt"})
        else:
            torch.save(part, folder / filename, _use_new_zipfile_serialization=not layout.old_pickle)

    if "SHARDS" not in layout.asked:
        return write(tensors, weights)
    names, weight_map, (stem, kind) = sorted(tensors), {}, weights.split(".")
    for i in range(2):
        filename = f"{stem}-{i + 1:05}-of-00002.{kind}"
        write({name: tensors[name] for name in names[i::2]}, filename)
        weight_map |= dict.fromkeys(names[i::2], filename)
    (folder / f"{weights}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def publish(hub, vocabularies, tmp_path):
    """publish(repo id) -> (server of that repository, folder with the files in it that have a meaning)."""
    def start(name, without=(), **options):
        layout, folder = LAYOUTS[name], tmp_path / "published"
        write_checkpoint(layout, folder, vocabularies[layout.vocabulary][0])
        files = dict.fromkeys([*FOR_OTHERS, *layout.beside.split()], b"not to be asked for " * 100)
        files |= {path.name: path.read_bytes() for path in folder.iterdir()}
        return hub({name: {"main": {k: v for k, v in files.items() if k not in without}}}, **options), folder
    return start


def expected_files(layout, folder):
    """tokenizer_config.json is read whenever it is there: it decides about lower case and added tokens."""
    shards = [path.name for path in folder.glob("*-of-*")]
    options = ["tokenizer_config.json"] if layout.options is not None else []
    return sorted({name for name in layout.asked.split() if name != "SHARDS"} | {*shards, *options})


def cleaned(name, texts):
    """What the oracle must be given: the model cards of Cardiff NLP's models mask names and links by themselves."""
    def clean(text):
        return " ".join("@user" if word.startswith("@") and len(word) > 1 else
                        "http" if word.startswith("http") else word for word in text.split(" "))
    return [clean(text) for text in texts] if name.startswith("cardiffnlp/") else texts


def one_line_of(error_info):
    message = str(error_info.value)
    assert message and "\n" not in message
    return message


# ---- what is loaded ----

@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_and_logits_of_this_layout_equal_those_of_transformers(name, publish, vocabularies, capsys):
    layout = LAYOUTS[name]
    _, folder = publish(name)
    model, tokenizer = load_model(name, label_names=LABELS)
    printed = capsys.readouterr().out
    if layout.fresh:        # a new head is made and announced, tensor by tensor; otherwise nothing is said
        fresh = [HEADS[layout.model_type][module] for module in layout.fresh.split()]
        tensors = ", ".join(f"{module}.{leaf}" for module in sorted(fresh) for leaf in ("bias", "weight"))
        assert printed == f"new classification head ({tensors}) for 3 labels: bad, good, so so\n"
    else:
        assert printed == ""

    max_length = ROWS - 2 if "roberta" in layout.model_type else ROWS        # RoBERTa's positions start at 2
    assert model.config.max_length == max_length
    ids = tokenizer(TEXTS, max_length)
    oracle = vocabularies[layout.vocabulary][1]
    assert ids == oracle(cleaned(name, TEXTS), truncation=True, max_length=max_length)["input_ids"]
    assert max(map(len, ids)) == max_length and tokenizer.pad_id == oracle.pad_token_id

    labels = {"num_labels": 3} if layout.fresh else {}
    theirs, info = CLASSIFIERS[layout.model_type].from_pretrained(folder, output_loading_info=True, **labels)
    assert set(info["missing_keys"]) == {f"{m}.{leaf}" for m in layout.fresh.split() for leaf in ("weight", "bias")}
    with torch.no_grad():
        for module in layout.fresh.split():                 # both get the same head, with numbers far from zero
            for leaf in ("weight", "bias"):
                ours = model.get_parameter(f"{HEADS[layout.model_type][module]}.{leaf}").normal_(std=0.3)
                theirs.get_parameter(f"{module}.{leaf}").copy_(ours)
        rows = [torch.tensor(row) for row in ids]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_id)
        attention_mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        logits = theirs.eval()(input_ids, attention_mask).logits
        torch.testing.assert_close(model(input_ids, attention_mask), logits, atol=1e-5, rtol=1e-5)
    assert logits.std(dim=0).min() > 0.01                   # the texts are told apart: the equality says something


@pytest.mark.parametrize("name", LAYOUTS)
def test_of_the_files_there_only_those_needed_are_asked_for(name, publish):
    server, folder = publish(name)
    load_model(name, label_names=LABELS)
    asked = server.files_asked(name)
    assert sorted(set(asked) & set(server.repos[name]["main"])) == expected_files(LAYOUTS[name], folder)
    assert not [file for file in asked if file.endswith((".h5", ".msgpack", ".ot", ".onnx")) or "onnx/" in file]


@pytest.mark.parametrize("name", ["google-bert/bert-base-uncased", "prajjwal1/bert-tiny", "vinai/bertweet-base",
                                  "org/sharded"])
def test_second_load_needs_no_network_and_warns_of_nothing(name, publish, monkeypatch, tmp_path, recwarn):
    server, _ = publish(name)
    model, tokenizer = load_model(name, label_names=LABELS)
    server.log.clear()
    hub_server.use_hub(monkeypatch, tmp_path, server.url, offline=True)
    again, same_tokenizer = load_model(name, label_names=LABELS)
    assert server.log == [] and not [str(w.message) for w in recwarn if "HF_HUB" in str(w.message)]
    assert torch.equal(model.embeddings.word.weight, again.embeddings.word.weight)
    assert tokenizer(TEXTS, 32) == same_tokenizer(TEXTS, 32)


@pytest.mark.parametrize("name, label_names", {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": ["NEGATIVE", "POSITIVE"],
    "cardiffnlp/twitter-roberta-base-sentiment-latest": ["negative", "neutral", "positive"],
    "org/sharded": ["LABEL_0", "LABEL_1", "LABEL_2"]}.items())
def test_labels_of_a_classifier_are_those_of_its_config(name, label_names, publish):
    publish(name)
    assert load_model(name)[0].config.label_names == label_names


def test_checkpoint_without_a_head_needs_labels(publish):
    publish("google-bert/bert-base-uncased")
    with pytest.raises(ValueError, match="'?google-bert/bert-base-uncased'? has no classification head") as error:
        load_model("google-bert/bert-base-uncased")
    one_line_of(error)


def test_old_id_loads_the_same_model_as_the_new_one(publish):
    new = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
    old = new.removeprefix("distilbert/")
    server, folder = publish(new, renamed={old: new})
    (model, tokenizer), (same, same_tokenizer) = load_model(old), load_model(new)
    assert all(map(torch.equal, model.parameters(), same.parameters()))
    assert tokenizer(TEXTS, 32) == same_tokenizer(TEXTS, 32)
    assert set(expected_files(LAYOUTS[new], folder)) <= set(server.files_asked(old))


# ---- what is refused ----

@pytest.mark.parametrize("name, filename", [
    ("google-bert/bert-base-uncased", "config.json"), ("google-bert/bert-base-uncased", "model.safetensors"),
    ("google-bert/bert-base-uncased", "tokenizer.json"), ("prajjwal1/bert-tiny", "pytorch_model.bin"),
    ("prajjwal1/bert-tiny", "vocab.txt"), ("org/sharded", "model.safetensors.index.json"),
    ("org/sharded", "model-00002-of-00002.safetensors")])
def test_download_cut_for_good_is_one_line_and_no_model_until_the_network_is_back(name, filename, publish, tmp_path):
    server, _ = publish(name)
    server.cut(filename, after=7)
    with pytest.raises(ConnectionError) as error:
        load_model(name, label_names=LABELS)
    assert filename in one_line_of(error) and name in str(error.value)
    assert not list((tmp_path / "hf").rglob(filename))      # the part has not got the name of the whole
    server.cuts.clear()
    assert load_model(name, label_names=LABELS)


@pytest.mark.parametrize("name, without, message", [
    ("org/sharded", ["config.json"], "has no config.json"),
    ("prajjwal1/bert-tiny", ["pytorch_model.bin"], "neither model.safetensors nor pytorch_model.bin"),
    ("prajjwal1/bert-tiny", ["vocab.txt"], "has no tokenizer"),
    ("FacebookAI/roberta-base", ["tokenizer.json", "merges.txt"], "has no tokenizer"),
    ("org/sharded", ["model-00002-of-00002.safetensors"], "lacks model-00002-of-00002.safetensors")])
def test_repository_that_lacks_a_part_is_one_line_that_names_both(name, without, message, publish):
    publish(name, without=without)
    with pytest.raises(FileNotFoundError, match=re.escape(message)) as error:
        load_model(name, label_names=LABELS)
    assert name in one_line_of(error)


@pytest.mark.parametrize("name", ["org/no-such-model", "no-such-model", "prajjwal1/bert-tiny@v9"])
def test_unknown_model_or_revision_is_one_line_that_names_it(name, publish):
    publish("prajjwal1/bert-tiny")
    with pytest.raises(FileNotFoundError) as error:
        load_model(name, label_names=LABELS)
    assert name.rpartition("@")[2] in one_line_of(error)


def test_translation_model_is_refused_in_one_line_before_its_weights_are_fetched(hub):
    name = "Helsinki-NLP/opus-mt-de-en"
    server = hub({name: {"main": {"config.json": b'{"model_type": "marian"}', "pytorch_model.bin": b"300 MB",
                                  "source.spm": b"", "vocab.json": b"{}"}}})
    with pytest.raises(ValueError, match="model_type 'marian' is not supported") as error:
        load_model(name, label_names=LABELS)
    assert name in one_line_of(error) and server.files_asked() == ["config.json"]


# ---- data sets ----

@dataclass
class Published:
    repo: str                                               # with the pinned revision, as written in hub.md
    files: list[str]                                        # train, (validation,) test
    labels: list[str]                                       # of the rows below; ids count from 0
    row: object = lambda text, i, label: {"id": "a1", "text": text, "label": i, "label_text": label}
    as_array: bool = False                                  # .json: one array instead of a line per row


def massive(language, **options):
    files = [f"{split}/{language}.json.gz" for split in ("train", "validation", "test")]
    return Published("mteb/amazon_massive_intent@d189f0ff91cc89665ddc5185f7267979c0314718", files,
                     ["alarm_set", "play_music", "weather_query"],
                     lambda text, i, label: {"id": "7", "label": label, "label_text": label, "text": text,
                                             "lang": language}, **options)


SPLIT_FILES = ["train.jsonl", "validation.jsonl", "test.jsonl"]
GO_EMOTIONS = Published("SetFit/go_emotions@eb2aeb71c7715233b57c33b4500f5fb513d76d0d", SPLIT_FILES,
                        ["admiration", "amusement", "anger"],
                        lambda text, i, label: {"text": text, "id": "e1", "label": [i], "label_text": [label]})
PUBLISHED = [
    ("tweet_sentiment_extraction", Published(
        "mteb/tweet_sentiment_extraction@62146448f05be9e52a36b8ee9936447ea787eede", ["train.jsonl", "test.jsonl"],
        ["negative", "neutral", "positive"])),
    ("sst2", Published("SetFit/sst2@00ea8ccb7a54b4e3780a3e51aa3f80361ff849c0",
                       ["train.jsonl", "dev.jsonl", "test.jsonl"], ["negative", "positive"],
                       lambda text, i, label: {"text": text, "label": i, "label_text": label})),
    ("emotion", Published("mteb/emotion@829147f8f75a25f005913200eb5ed41fae320aa1", SPLIT_FILES,
                          ["sadness", "joy", "love", "anger", "fear", "surprise"])),
    ("goemotions", GO_EMOTIONS),
    ("massive", massive("en")), ("massive:de-DE", massive("de")), ("massive", massive("en", as_array=True)),
    ("imdb", Published("mteb/imdb@8d743909f834c38949e8323a8a6ce8721ea6c7f4", ["train.jsonl", "test.jsonl"],
                       ["negative", "positive"],
                       lambda text, i, label: {"text": text, "label": i, "label_text": label})),
]


def rows_of(published):
    """{file: [(text, label)]}: five texts of each label per file, with an umlaut, a line end and a U+2028."""
    return {file: [(f"{label} {i}\nin\u2028{file}: schön", label) for i in range(5) for label in published.labels]
            for file in published.files}


def encoded(published, rows, filename):
    rows = [published.row(text, published.labels.index(label), label) for text, label in rows]
    text = json.dumps(rows) if published.as_array else "".join(json.dumps(row) + "\n" for row in rows)
    return gzip.compress(text.encode()) if filename.endswith(".gz") else text.encode()


def pairs(dataset, *splits):
    return [(text, dataset.label_names[label]) for split in splits
            for text, label in zip(getattr(dataset, split).texts, getattr(dataset, split).labels, strict=True)]


def serve_dataset(hub, published):
    """The pinned revision, and a main that has moved on to parquet."""
    repo, _, revision = published.repo.partition("@")
    files = {file: encoded(published, rows, file) for file, rows in rows_of(published).items()}
    return hub({f"datasets/{repo}": {revision: files, "main": {"data/train-00000-of-00001.parquet": b"PAR1"}}})


@pytest.mark.parametrize("name, published", PUBLISHED, ids=[f"{n}-array" if p.as_array else n for n, p in PUBLISHED])
def test_dataset_is_read_from_its_pinned_revision_row_by_row(name, published, hub, tmp_path):
    server = serve_dataset(hub, published)
    dataset = load_dataset(name, data_dir=tmp_path / "empty")
    expected = list(rows_of(published).values())
    if len(published.files) == 3:
        assert [pairs(dataset, s) for s in ("train", "validation", "test")] == expected
    else:                                                   # validation is a part of train
        assert sorted(pairs(dataset, "train", "validation")) == sorted(expected[0])
        assert pairs(dataset, "test") == expected[1] and len(dataset.validation) > 0
    assert dataset.label_names[:len(published.labels)] == published.labels
    assert server.files_asked() == published.files
    assert any(f"read from the Hub: {published.repo}" in note for note in dataset.notes)


def test_every_registered_source_on_the_hub_is_tested_above():
    sources = [source for entry in DATASETS.values() for source in entry.get("sources", [])]
    assert {s["repo"] for s in sources if "repo" in s} == {published.repo for _, published in PUBLISHED}


def test_dataset_cut_for_good_is_one_line_and_no_data_until_the_network_is_back(hub, tmp_path):
    server = serve_dataset(hub, GO_EMOTIONS)
    server.cut("validation.jsonl", after=7)
    with pytest.raises(OSError) as error:
        load_dataset("goemotions", data_dir=tmp_path / "empty")
    assert "cannot get validation.jsonl" in one_line_of(error) and "SetFit/go_emotions" in str(error.value)
    server.cuts.clear()
    assert load_dataset("goemotions", data_dir=tmp_path / "empty")
