"""A process of its own for each model, the energy counters, parts of a file, operations."""

import os
import subprocess
import sys
import zipfile

import pytest
import torch

from pocketbert.errors import UserError
from pocketbert.evaluation.resources import EnergyMeter, start_cold
from pocketbert.models.flops import flops
from pocketbert.models.folder import save_model
from pocketbert.models.size import bytes_by_part, file_bytes, zipped_bytes
from pocketbert.pruning.cost import mac_cost
from small_models import FAMILIES, RECURRENT, TEXTS, quantized, random_model, random_recurrent


@pytest.mark.end_to_end
def test_a_fresh_process_answers_and_its_memory_is_its_own(tmp_path, tokenizer):
    """The process that asks holds 300 MB more, which getrusage of a child would report as the child's."""
    save_model(random_model(), tokenizer, tmp_path / "m", run={})
    held = torch.ones(75_000_000)
    found = start_cold(str(tmp_path / "m"), TEXTS, 40)
    assert held.numel() and 100 < found["cold_start_ms"] < 120_000
    alone = subprocess.run([sys.executable, "-c", "import torch; from pocketbert.memory import peak_bytes; "
                            "print(peak_bytes())"], capture_output=True, text=True, check=True,
                           cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    assert 0.8 < found["peak_memory_mb"] / (int(alone.stdout) / 1e6) < 1.6


@pytest.mark.end_to_end
def test_a_model_that_does_not_answer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not answer in a process of its own: .*no folder"):
        start_cold(str(tmp_path / "gone"), TEXTS, 40)


def write_counter(root, name, value, largest=1000):
    (root / name).mkdir(exist_ok=True)
    (root / name / "energy_uj").write_text(f"{value}\n")
    (root / name / "max_energy_range_uj").write_text(f"{largest}\n")


def test_joules_are_the_counters_of_all_processors_and_a_counter_may_start_again(tmp_path):
    write_counter(tmp_path, "intel-rapl:0", 2_000_000)
    write_counter(tmp_path, "intel-rapl:1", 900)
    write_counter(tmp_path, "intel-rapl:0:0", 5)  # a part of the first
    with EnergyMeter(tmp_path) as meter:
        write_counter(tmp_path, "intel-rapl:0", 5_000_000)
        write_counter(tmp_path, "intel-rapl:1", 100)
        write_counter(tmp_path, "intel-rapl:0:0", 5_000_000)
    assert meter.joules == pytest.approx(3 + 200e-6)


def test_no_joules_where_the_machine_has_no_counter_or_does_not_show_it(tmp_path):
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules is None
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir(parents=True)  # cannot be read as a file
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules is None


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_an_encoder_add_up_to_its_file(family, tmp_path, tokenizer):
    model = random_model(family=family)
    save_model(model, tokenizer, tmp_path / "m", run={})
    parts = bytes_by_part(tmp_path / "m")
    assert sum(parts.values()) == file_bytes(tmp_path / "m")["model"]
    for part, module in (("embeddings", model.embeddings), ("encoder", model.layers), ("head", model.head)):
        assert parts[part] == 4 * sum(p.numel() for p in module.parameters()), part


@pytest.mark.parametrize("kind", RECURRENT)
def test_parts_of_other_networks_add_up_to_their_files(kind, tmp_path, tokenizer):
    model = random_recurrent(RECURRENT[kind])
    save_model(model, tokenizer, tmp_path / "m", run={})
    parts = bytes_by_part(tmp_path / "m")
    assert sum(parts.values()) == file_bytes(tmp_path / "m")["model"]
    assert parts["head"] == 4 * sum(p.numel() for p in model.head.parameters())
    assert parts["embeddings"] == 4 * sum(p.numel() for p in model.embeddings.parameters())


def test_zipped_bytes_are_those_of_a_zip_file(tmp_path, tokenizer):
    save_model(quantized(random_model()), tokenizer, tmp_path / "m", run={})
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("model.safetensors", "tokenizer.json"):
            file.write(tmp_path / "m" / name)
        packed = sum(entry.compress_size for entry in file.infolist())
    assert zipped_bytes(tmp_path / "m") == pytest.approx(packed, abs=30)


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_twice_the_multiplications_that_pruning_counts(family):
    model = random_model(family=family)
    cost = mac_cost(model.config, 10)
    head = 32 * 32 + 32 * 3
    wanted = 2 * (cost.total(model.config.num_heads, model.config.intermediate_sizes) + head)
    assert flops(model, 10.3) == wanted
    assert flops(quantized(model), 10) == wanted  # int8 products count like floats
    assert flops(quantized(model, "encoder=nf4"), 10) == wanted


@pytest.mark.parametrize("kind, gates", [("gru", 3), ("lstm", 4)])
def test_flops_of_a_recurrent_cell_by_hand(kind, gates):
    """Each token: the products W x and R h of each gate, in both directions and two layers; the head comes on top."""
    model = random_recurrent(RECURRENT[kind])
    cell = sum(2 * 2 * gates * 8 * (in_size + 8) for in_size in (6, 16)) * 10
    found = flops(model, 10)
    assert cell <= found <= 1.15 * cell


def test_graphs_have_no_flops():
    assert flops(object(), 10) is None
