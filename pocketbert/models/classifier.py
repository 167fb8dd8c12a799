"""The call for an application: texts in, labels and probabilities out.

    from pocketbert import Classifier

    classify = Classifier("runs/best")                # a model folder or a Hub id
    classify("so good")                               # {"label": "positive", "score": 0.98, "probabilities": {...}}
    classify(["so good", "so bad"])                   # a list of them
    for answer in classify(line for line in file):    # one by one, in order, while the iterator gives texts
        ...

An exported folder (quantize.py export) needs numpy, tokenizers and its runtime, and nothing of torch is imported; any
other folder needs torch. Several threads may call one Classifier. A copy for another process (pickle) opens the folder
again.
"""

import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pkgutil import resolve_name

import numpy as np

from pocketbert.data.chunks import CHUNK_BATCHES, in_chunks
from pocketbert.data.encoding import encode
from pocketbert.data.padding import by_length, pad
from pocketbert.errors import NOT_FINITE, TrainingDiverged, UserError
from pocketbert.hub import repository
from pocketbert.models.opening import load_graph, open_folder, open_tokenizer, read_config, text_length


class Classifier:
    """A model folder that answers texts.

    name: a model folder or a Hub id
    device: as --device; compressed models and exported graphs run on the CPU, whatever it says
    threads: that an exported graph may use for one call; None: OMP_NUM_THREADS, else one a core
    batch_size: texts that are scored together    max_length: tokens kept of a text; None: as in training
    """

    def __init__(self, name, device="auto", threads=None, batch_size=32, max_length=None):
        self.options = (name, device, threads, batch_size, max_length)
        find = repository(name)
        hf, hashes = open_folder(find)
        if hf.get("runtime"):
            self.model, self.tokenizer = open_exported(name, find, hf, hashes, threads)
        else:
            self.model, self.tokenizer = open_torch(name, device)
        self.label_names = self.model.config.label_names
        self.batch_size = batch_size
        self.max_length = text_length(self.model, max_length)

    def __reduce__(self):
        return Classifier, self.options

    def __call__(self, texts):
        """One text -> one answer; a list, an array or a column of texts -> a list; an iterator -> an iterator.

        An answer is {"label": name, "score": the label's probability, "probabilities": {name: probability}}.
        """
        if isinstance(texts, str):
            return self.answers([texts])[0]
        if isinstance(texts, Iterator):
            return self.stream(texts)
        return self.answers(list(texts))

    def stream(self, texts):
        """An iterator over the answers. The texts are read in chunks, see chunks.py."""
        for chunk in in_chunks(texts, CHUNK_BATCHES * self.batch_size):
            yield from self.answers(chunk)

    def answers(self, texts):
        """A list of answers to a list of texts."""
        probabilities, _ = self.probabilities(texts)
        answers = []
        for row in probabilities.tolist():
            score = max(row)
            answers.append({"label": self.label_names[row.index(score)], "score": score,
                            "probabilities": dict(zip(self.label_names, row, strict=True))})
        return answers

    def probabilities(self, texts):
        """(probabilities (N, num_labels), how many texts were cut at max_length).

        Texts of like length are scored together; the order is kept. Logits that are not finite are an error: their
        softmax would be no probability.
        """
        ids, cut = encode(self.tokenizer, texts, self.max_length)
        logits = np.empty((len(ids), len(self.label_names)), np.float32)
        for rows in by_length(ids, self.batch_size):
            logits[rows] = self.model(*pad(ids, rows, self.tokenizer.pad_id))
        if not np.isfinite(logits).all():
            raise TrainingDiverged(NOT_FINITE)
        return softmax(logits), cut


def open_exported(name, find, hf, hashes, threads):
    """(graph.Graph, tokenizer) of an exported folder."""
    config = read_config(hf, f"{name}/config.json")
    open_graph = resolve_name("pocketbert.quantization.graph:open_graph")
    graph = load_graph(find, config, hashes, partial(open_graph, threads=threads or default_threads()))
    return graph, open_tokenizer(find, config, None, name, hashes)


def open_torch(name, device):
    """(predict.OnArrays, tokenizer) of any other folder, whose model runs in torch."""
    if find_spec("torch") is None:
        raise UserError(f"{name} needs torch: pip install 'pocketbert[torch]', or export it: python quantize.py export")
    from pocketbert.models.device import pick_device
    from pocketbert.models.folder import load_model
    from pocketbert.models.predict import OnArrays
    model, tokenizer = load_model(name)
    model.to("cpu" if model.config.stored_formats else pick_device(device, quiet=True))
    return OnArrays(model), tokenizer


def softmax(logits):
    """exp(x_i) / sum_j exp(x_j) of each row: (N, num_labels) -> the same"""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def default_threads():
    """OMP_NUM_THREADS, which torch obeys too, or the number of cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else os.cpu_count()
