"""What a comparison of models found, as plain data: `evaluate.compare` makes it, report.py shows it.

results.json is Results.as_dict(); a change of the meaning of a name in it raises SCHEMA_VERSION.
"""

from dataclasses import asdict, dataclass, field

import torch

SCHEMA_VERSION = 1


@dataclass
class ModelResult:
    """One row of the table. Scores and differences are fractions (0.01 is one point); times are milliseconds.

    None: not measured, because of --quick or because the model has no such thing.
    """

    name: str
    folder: str                         # "": a reference (references.py), which has no folder
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
    same_label_as_baseline: float       # share of the texts: label loyalty
    # Time of the model, without the tokenizer; a speedup is the baseline's time / the model's time
    ms_1: float                         # median for one text
    ms_1_p95: float
    speedup_1: float
    ms_32: float                        # median for a batch of 32 texts
    ms_32_p95: float
    speedup_32: float
    texts_per_second: float             # from raw strings, in batches of 32
    tokenisation_us: float              # microseconds per text
    cut_texts: int                      # longer than max_length tokens, so that their end was not read
    # More about each of these; the same order
    is_reference: bool = False          # majority, tf-idf, fastText
    bytes_by_part: dict | None = None   # {"embeddings", "encoder", "head", "header"}: they add up to `bytes`
    zipped_bytes: int | None = None     # weights and tokenizer after deflate
    flops: float | None = None          # floating-point operations for a text of mean length
    formats: list = field(default_factory=list)     # stored formats and runtimes: ["int8_linear"]
    sparsity: float = 0.0               # share of the matrices' weights that are 0
    idle_heads: int = 0                 # heads and neurons that add nothing but are computed
    idle_neurons: int = 0
    parent: str | None = None           # the name of the row from which run.json says that this model was made
    accuracy_low: float = 0.0           # 95 % bootstrap interval of accuracy
    accuracy_high: float = 1.0
    ece: float = 0.0                    # expected calibration error
    reliability: list = field(default_factory=list)     # 15 bins: {"texts", "confidence", "accuracy"}
    temperature: float | None = None    # fitted on validation texts
    ece_refitted: float | None = None   # with that temperature
    keep: float = 1.0                   # macro_f1 / the baseline's, with its paired interval
    keep_low: float = 1.0
    keep_high: float = 1.0
    accuracy_difference: float = 0.0    # with its paired interval
    accuracy_difference_low: float = 0.0
    accuracy_difference_high: float = 0.0
    accuracy_keep: float = 1.0          # accuracy / the baseline's, and the lower end of its interval
    accuracy_keep_low: float = 1.0
    p_value_holm: float = 1.0           # McNemar's, corrected for the number of models
    p_f1: float = 1.0                   # of the difference in macro-F1, from the bootstrap
    p_f1_holm: float = 1.0              # corrected: what the verdict says
    detectable: float = 0.0             # the smallest true difference that these texts would have shown
    verdict: str = "baseline"           # "worse", "better", "same within 0.4 points", "these texts cannot tell"
    probability_loyalty: float = 1.0    # 1 - sqrt(JS) to the baseline's probabilities
    flips: dict = field(default_factory=dict)   # {"broken", "fixed", "of", "examples"}
    slices: dict = field(default_factory=dict)  # {name: {"texts", "accuracy", "difference", "low", "high"}}
    robustness: dict | None = None      # {damage: {"texts", "changed", "macro_f1", "difference"}}
    batch_mates: dict | None = None     # {"texts", "labels_changed", "largest_logit_difference"}
    ms_1_p99: float = 0.0
    ms_32_p99: float = 0.0
    ms_1_from_text: float = 0.0         # tokenisation and model, one text
    ms_1_from_text_p95: float = 0.0
    ms_1_from_text_p99: float = 0.0
    ms_32_from_text: float = 0.0        # the same for 32 texts
    ms_32_from_text_p95: float = 0.0
    ms_32_from_text_p99: float = 0.0
    other_threads: dict | None = None   # {"threads", "ms_1", "ms_32", "speedup_1", "speedup_32", "texts_per_second"}
    cold_start_ms: float | None = None  # start of the process to the first answer
    peak_memory_mb: float | None = None     # resident, in a process of its own
    joules_per_1000_texts: float | None = None
    # Not written to results.csv
    history: list | None = None         # per epoch, from run.json
    commands: list = field(default_factory=list)    # lines of shell that rebuild the folder
    logits: torch.Tensor | None = field(default=None, repr=False)  # (texts, num_labels); in no file

    @property
    def bytes_mb(self):
        return self.bytes / 1e6

    @property
    def size_mb(self):
        """Weights and tokenizer, in 10^6 bytes."""
        return (self.bytes + self.tokenizer_bytes) / 1e6

    def as_dict(self):
        """Everything but the logits."""
        values = asdict(self)
        del values["logits"]
        shares = [[count / max(1, sum(row)) for count in row] for row in self.confusion]
        return values | {"bytes_mb": self.bytes_mb, "size_mb": self.size_mb, "confusion_share": shares}


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
    models: list[ModelResult]           # the baseline, then from the largest file to the smallest, references last
    mean_tokens: float = 0.0            # of a text, for the baseline's tokenizer
    warnings: list[str] = field(default_factory=list)
    gate: dict | None = None            # {"conditions", "on", "models", "missed": [lines]}
    measured: str = ""                  # date and time, UTC

    @property
    def baseline(self):
        return next(model for model in self.models if model.is_baseline)

    def as_dict(self):
        values = {key: value for key, value in vars(self).items() if key != "models"}
        size_mb = self.baseline.size_mb
        models = [model.as_dict() | {"times_smaller": size_mb / model.size_mb} for model in self.models]
        return {"schema": "pocketbert-results", "schema_version": SCHEMA_VERSION, **values, "models": models}
