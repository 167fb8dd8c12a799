"""Each warning of a report, provoked by a model that deserves it."""

import pytest
import torch

from pocketbert.evaluation.model_warnings import warnings_of
from pocketbert.evaluation.zeros import idle_units, zero_weights
from small_models import quantized, random_model
from small_results import result_of, results_of

INT8 = {"formats": ["int8_linear"], "speedup_1": 0.8, "speedup_32": 1.2}


@pytest.mark.parametrize("changes, words", [
    ({"answers_one_class": True}, "m answers one class for every text"),
    ({"idle_heads": 3, "idle_neurons": 1200}, "m multiplies 3 attention heads and 1,200 neurons by zeros: masked but "
     "not cut out"),
    ({"sparsity": 0.5, "speedup_1": 1.01, "speedup_32": 0.99}, "50 % of the weights of m are zero, which saves no time "
     "here: 1.01 x the speed of base"),
    (INT8, "int8 is slower than fp32 on this processor: m has 0.80 x at batch 1 of the speed of base"),
    ({"batch_mates": {"texts": 200, "labels_changed": 0.02}}, "m gives 2.0 % of the texts another label in a batch of "
     "32 than alone")])
def test_warning_appears_when_it_is_true_and_only_then(changes, words):
    base = result_of("base", is_baseline=True, speedup_1=1.0, speedup_32=1.0)
    [warning] = warnings_of(results_of(base, result_of("m", **changes)))
    assert warning.startswith(words)
    assert warnings_of(results_of(base, result_of("m"))) == []


def test_int8_is_compared_with_the_model_that_it_was_made_from():
    """A pruned model is twice as fast as the baseline; in int8 1.8 times, so int8 has made it slower."""
    base = result_of("base", is_baseline=True, speedup_1=1.0, speedup_32=1.0)
    pruned = result_of("pruned", speedup_1=2.0, speedup_32=2.0)
    int8 = result_of("int8", formats=["int8_linear"], speedup_1=1.8, speedup_32=2.2, parent="pruned")
    [warning] = warnings_of(results_of(base, pruned, int8))
    assert warning.endswith("int8 has 0.90 x at batch 1 of the speed of pruned")


def test_references_are_not_warned_of():
    base = result_of("base", is_baseline=True)
    assert warnings_of(results_of(base, result_of("majority", is_reference=True, answers_one_class=True))) == []


def test_heads_and_neurons_that_are_masked_but_not_cut_are_counted_whatever_the_format():
    model = random_model()  # 3 layers, 4 heads of size 8, 24 neurons
    assert idle_units(model) == (0, 0) and zero_weights(model) < 0.001
    with torch.no_grad():
        model.layers[0].attention.output.weight[:, 8:24] = 0        # heads 1 and 2 are multiplied by zeros
        model.layers[1].attention.value.weight[:8] = 0              # head 0 is zero itself
        model.layers[1].attention.value.bias[:8] = 0
        model.layers[2].attention.value.weight[:8] = 0              # here its bias is left
        model.layers[1].ffn.down.weight[:, :5] = 0
        model.layers[2].ffn.up.weight[3] = 0
        model.layers[2].ffn.up.bias[3] = 0
    assert idle_units(model) == (3, 6)
    assert idle_units(quantized(model, "encoder=int8")) == (3, 6)
    zeros = 32 * 16 + 8 * 32 + 8 * 32 + 5 * 32 + 32
    total = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert zero_weights(model) == pytest.approx(zeros / total)


def test_exported_graphs_show_no_weights():
    assert idle_units(object()) == (0, 0) and zero_weights(object()) == 0
