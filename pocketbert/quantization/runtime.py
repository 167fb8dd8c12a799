"""An exported graph that is called like a model of torch."""

import torch

from pocketbert.errors import UserError
from pocketbert.models.masks import full_mask
from pocketbert.quantization.graph import open_graph


class Runtime:
    """A graph.Graph that takes and gives tensors: (input_ids, attention_mask) -> logits, as an Encoder does."""

    device = torch.device("cpu")

    def __init__(self, graph):
        self.graph = graph
        self.config = graph.config

    def eval(self):
        return self

    def to(self, device):
        if torch.device(device).type != "cpu":
            raise UserError(f"--device {device}: exported graphs run on the CPU only")
        return self

    def __call__(self, input_ids, attention_mask=None):
        """Token ids (B, T) -> logits (B, num_labels); attention_mask as in Encoder.forward."""
        mask = full_mask(input_ids, attention_mask)
        return torch.from_numpy(self.graph(input_ids.long().cpu().numpy(), mask.cpu().numpy()))


def open_runtime(folder, format_name, config):
    """The graph of a folder as a Runtime. It will use as many threads as torch has at this moment."""
    return Runtime(open_graph(folder, format_name, config, torch.get_num_threads()))
