"""Sizes and names of model folders, found before the work."""

import os

from pocketbert.models.folder import save_model
from pocketbert.models.size import count_parameters, file_bytes
from small_models import quantized, random_model


def test_bytes_are_those_of_the_files_and_parameters_those_of_the_float_model(tmp_path, tokenizer):
    model = random_model()
    int8 = quantized(model)
    assert count_parameters(model) == count_parameters(int8) == sum(p.numel() for p in model.parameters())
    for name, saved in (("fp32", model), ("int8", int8)):
        save_model(saved, tokenizer, tmp_path / name, run={})
        assert file_bytes(tmp_path / name) == {
            "model": os.path.getsize(tmp_path / name / "model.safetensors"),
            "tokenizer": os.path.getsize(tmp_path / name / "tokenizer.json")}
    assert file_bytes(tmp_path / "int8")["model"] < file_bytes(tmp_path / "fp32")["model"]
