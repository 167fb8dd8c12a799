"""What is opened of a model folder without torch: config.json, the hashes, the tokenizer, an exported graph.

folder.load_model opens the rest, the networks of torch. classifier.Classifier answers with either.
"""

from pkgutil import resolve_name

from pocketbert.data.tokenizer_files import load_tokenizer
from pocketbert.data.tweets import CLEANERS
from pocketbert.errors import UserError
from pocketbert.files import is_unfinished, read_json
from pocketbert.hub import Folder
from pocketbert.models.config import EncoderConfig
from pocketbert.models.config_values import check_task, naming, text, whole
from pocketbert.models.hashes import check_hashes, saved_hashes
from pocketbert.models.recurrent_config import RecurrentConfig
from pocketbert.models.weight_paths import ADAPTER_CONFIG, refuse_pointer

DEFAULT_LENGTH = 128  # tokens kept of a text by a model that does not say what it was trained with


def open_folder(find):
    """(config.json as a dictionary, hashes) of a folder or Hub id; see hub.repository, hashes.saved_hashes.

    An adapter that `peft` has written has no config.json: {}.
    """
    if isinstance(find, Folder) and is_unfinished(find.path, last="run.json"):
        raise UserError(f"{find.name} is an interrupted save: its files may be of two models; run its command again")
    config_path = find("config.json")
    if config_path is None and find(ADAPTER_CONFIG):
        return {}, saved_hashes(find)
    if config_path is None:
        raise FileNotFoundError(f"{find.name} has no config.json: it is not a model folder")
    hf = read_json(refuse_pointer(config_path))
    hashes = saved_hashes(find)
    check_hashes([config_path], hashes)
    return hf, hashes


def read_config(hf, source):
    """The EncoderConfig or RecurrentConfig of a config.json. source: what error messages name."""
    with naming(source):
        text(hf, "runtime")
        text(hf, "text_cleaning", "none", choices=CLEANERS)
    is_recurrent = str(hf.get("base_model_type") or hf.get("model_type")).startswith("pocketbert-")
    kind = RecurrentConfig if is_recurrent else EncoderConfig
    return kind.from_hf(hf, source)


def text_length(model, asked=None):
    """How many tokens of a text the model reads, special tokens included.

    asked: --max-length; None: as many as the model was trained with (text_length in its config.json), else 128. Never
    more than the model has positions for.
    """
    return min(asked or model.config.text_length or DEFAULT_LENGTH, model.config.max_length)


def open_tokenizer(find, config, cleaning, name, hashes):
    """The tokenizer of a repository. name: of the model, for messages"""
    check_hashes(filter(None, [find("tokenizer.json")]), hashes)
    try:
        tokenizer = load_tokenizer(find, config.hf, cleaning=cleaning, name=name)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust: no Exception, and it cannot be imported
            raise
        raise UserError(f"{name}: the tokenizer is damaged ({error}); fetch it again") from None
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(f"{name}: the tokenizer knows {tokenizer.vocab_size} tokens, the embedding only "
                        f"{config.vocab_size}; tokenizer and weights are of different models")
    return tokenizer


def load_graph(find, config, hashes, open_graph):
    """The exported graph that config.json names. Its files are checked before the runtime reads them.

    open_graph: a function of (folder, format, config)
    """
    form = config.hf["runtime"]
    with naming(f"{find.name}/config.json"):
        num_parameters = whole(config.hf, "num_parameters", 0)
        check_task(config.hf, config.label_names)
        paths = graph_paths(find, form)
    check_hashes(map(refuse_pointer, paths), hashes)
    graph = open_graph(find("config.json").parent, form, config)
    graph.num_parameters = num_parameters
    return graph


def graph_paths(find, form):
    """The paths of an exported graph's files."""
    names = resolve_name("pocketbert.quantization.graph:graph_files")(form)
    return [path for path in map(find, names) if path]
