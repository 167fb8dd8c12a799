"""An adapter as files, in the layout of `peft`, so that adapters go both ways.

    adapter_config.json           r, lora_alpha, lora_dropout, the adapted modules, and the name of the base model
    adapter_model.safetensors     A and B of each adapted matrix, and the classification head

save_adapter (folder.py) writes config.json, tokenizer.json and run.json beside them, which `peft` does not read: the
labels, the text length and the hash of the base. Only what changes no formula is read here: an adapter with DoRA, with
trained biases or with tensors of other kinds is refused.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from pocketbert.errors import UserError
from pocketbert.files import read_json, write_json
from pocketbert.models.config_values import naming, number, text
from pocketbert.models.hf_names import from_hf_name, to_hf_name
from pocketbert.models.lora import LoraLinear
from pocketbert.models.stored import StoredMatrix, replace_module
from pocketbert.models.tensor_checks import check_values, list_names
from pocketbert.models.weight_files import read_tensors, write_safetensors
from pocketbert.models.weight_paths import ADAPTER_CONFIG, ADAPTER_WEIGHTS

PREFIX = "base_model.model."  # in front of every name in a file of peft
HEAD_MODULES = {"bert": ["bert.pooler", "classifier"], "roberta": ["classifier"],  # Hugging Face's names of our Head
                "distilbert": ["pre_classifier", "classifier"]}


@dataclass
class Adapter:
    """What a training of adapters has changed.

    tensors: {our name: tensor}: layers.0.attention.query.lora_A (r, in), ....lora_B (out, r), head.out.weight, ...
    """

    rank: int
    alpha: float
    dropout: float
    tensors: dict[str, torch.Tensor]

    def matrices(self):
        """{name of an adapted matrix: (A, B)}"""
        names = [name.removesuffix(".lora_A") for name in self.tensors if name.endswith(".lora_A")]
        return {name: (self.tensors[f"{name}.lora_A"], self.tensors[f"{name}.lora_B"]) for name in names}

    def others(self):
        """{our name: tensor} of what was trained whole: the head."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.endswith((".lora_A", ".lora_B"))}


def adapter_of(model):
    """The adapter that add_lora has put into a model: a copy of its numbers, on the CPU."""
    one = next(module for module in model.modules() if isinstance(module, LoraLinear))
    tensors = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()
               if name.endswith((".lora_A", ".lora_B")) or name.startswith("head.")}
    return Adapter(len(one.lora_A), one.alpha, one.lora_dropout, tensors)


def attach(model, adapter, name):
    """Put the A and B of an adapter beside the model's matrices, in place. name: of its folder, for messages"""
    for module_name, (A, B) in adapter.matrices().items():
        base = dict(model.named_modules()).get(module_name)
        if not isinstance(base, nn.Linear | StoredMatrix):
            raise UserError(f"{name}: its base model has no matrix {module_name}")
        module = LoraLinear(base, adapter.rank, adapter.alpha, adapter.dropout)
        expected = {"lora_A": module.lora_A, "lora_B": module.lora_B}
        for key, tensor in (("lora_A", A), ("lora_B", B)):
            if tensor.shape != expected[key].shape:
                raise UserError(f"{name}: {key} of {module_name} is {tuple(tensor.shape)}, but its base model asks for "
                                f"{tuple(expected[key].shape)}")
        check_values(expected, {"lora_A": A, "lora_B": B}, f"{name}: {module_name}")
        module.lora_A = nn.Parameter(A)
        module.lora_B = nn.Parameter(B)
        replace_module(model, module_name, module)


# ---- writing ---------------------------------------------------------------------------------------------

def write_adapter(adapter, family, base, revision, folder):
    """Write the two files of peft. family: of the encoder    base, revision: a folder, or a Hub id and its commit"""
    modules = [to_hf_name(f"{name}.weight", family).removesuffix(".weight") for name in adapter.matrices()]
    config = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": base, "revision": revision,
              "inference_mode": True, "r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout,
              "bias": "none", "target_modules": modules, "modules_to_save": HEAD_MODULES[family]}
    write_json(config, folder / ADAPTER_CONFIG)
    tensors = {}
    for name, tensor in adapter.tensors.items():
        suffix = ".weight" if name.endswith((".lora_A", ".lora_B")) else ""
        tensors[f"{PREFIX}{to_hf_name(name, family)}{suffix}"] = tensor.contiguous()
    write_safetensors(tensors, folder / ADAPTER_WEIGHTS[0])


# ---- reading ---------------------------------------------------------------------------------------------

def read_adapter(config_path, weights_path, family):
    """The Adapter in these two files, with our names. family: of the base model"""
    values = read_json(config_path)
    with naming(config_path):
        text(values, "peft_type", "", choices=["LORA"])
        text(values, "bias", "none", choices=["none"])
        for key in ("use_dora", "use_qalora", "rank_pattern", "alpha_pattern", "layer_replication"):
            if values.get(key):
                raise UserError(f"{key} is not supported; merge the adapter with peft (merge_and_unload) and load that")
        rank = int(number(values, "r", 8, 1, 100_000))
        alpha = number(values, "lora_alpha", 8, 0, math.inf)
        dropout = number(values, "lora_dropout", 0.0, 0, 1)
    if values.get("use_rslora"):
        alpha *= math.sqrt(rank)  # its factor is alpha / sqrt(r)
    tensors = {}
    leftover = []
    for file_name, tensor in read_tensors([weights_path]).items():
        name = our_name(file_name, family)
        if name is None:
            leftover.append(file_name)
        else:
            tensors[name] = tensor.to(torch.float32, copy=True)
    halves = [f"{name[:-1]}{'B' if name[-1] == 'A' else 'A'}" for name in tensors if ".lora_" in name]
    missing = [name for name in halves if name not in tensors]
    if leftover or missing or not halves:
        raise UserError(f"{weights_path}: this is no LoRA of matrices of a {family} encoder (left over: "
                        f"{list_names(leftover) or 'nothing'}; missing: {list_names(missing) or 'nothing'})")
    return Adapter(rank, alpha, dropout, tensors)


def our_name(file_name, family):
    """base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight -> layers.0.attention.query.lora_A

    None: not a name that we know.
    """
    name = file_name.removeprefix(PREFIX)
    is_lora = name.endswith((".lora_A.weight", ".lora_B.weight"))
    return from_hf_name(name.removesuffix(".weight") if is_lora else name, family)
