"""What a comparison of models found, as plain data: `evaluate.compare` makes it, report.py and others show it."""

from dataclasses import asdict, dataclass, field

import torch


@dataclass
class ModelResult:
    """One row of the table. Scores and differences are fractions (0.01 is one point); times are milliseconds."""

    name: str
    folder: str
    is_baseline: bool
    # Size
    parameters: int
    bytes: int                          # of the weight files
    tokenizer_bytes: int
    # Scores
    macro_f1: float
    accuracy: float
    cross_entropy: float                # nats per text
    per_class: dict                     # {label name: {"precision", "recall", "f1", "texts"}}
    confusion: list                     # row = true class, column = predicted class
    f1_low: float                       # 95 % bootstrap interval of macro_f1
    f1_high: float
    answers_one_class: bool             # the same class for every text
    # Compared with the baseline
    difference: float                   # macro_f1 - the baseline's macro_f1
    low: float                          # 95 % paired bootstrap interval of the difference
    high: float
    p_value: float                      # McNemar's exact test
    same_label_as_baseline: float       # share of the texts
    # Time of the model, without the tokenizer; a speedup is the baseline's time / the model's time
    ms_1: float                         # median for one text
    ms_1_p95: float
    speedup_1: float
    ms_32: float                        # median for a batch of 32 texts
    ms_32_p95: float
    speedup_32: float
    texts_per_second: float             # in batches of 32
    tokenisation_us: float              # microseconds per text
    cut_texts: int                      # longer than max_length tokens, so that their end was not read
    # Not written to results.csv
    history: list | None = None         # per epoch, from run.json
    logits: torch.Tensor | None = field(default=None, repr=False)  # (texts, num_labels); in no file

    @property
    def bytes_mb(self):
        return self.bytes / 1e6

    def as_dict(self):
        """Everything but the logits and the history."""
        values = asdict(self)
        del values["logits"], values["history"]
        return values | {"bytes_mb": self.bytes_mb}


@dataclass
class Results:
    """A comparison of models on one split of one dataset."""

    data: str                           # name of the dataset
    fingerprint: str                    # hash of its texts and labels
    split: str                          # "test" or "validation"
    texts: int                          # how many texts were scored
    max_length: int                     # tokens kept of a text
    label_names: list[str]
    hardware: dict
    models: list[ModelResult]           # the baseline first, then from the largest file to the smallest

    def as_dict(self):
        values = {key: value for key, value in vars(self).items() if key != "models"}
        return values | {"models": [model.as_dict() for model in self.models]}
