"""Tensor names: ours and Hugging Face's."""

from pocketbert.models.hf_names import from_hf_name, to_hf_name
from small_models import FAMILIES, random_model


def test_every_tensor_name_survives_the_way_to_hugging_face_and_back():
    for family in FAMILIES:
        for name in random_model(family=family).state_dict():
            assert from_hf_name(to_hf_name(name, family), family) == name
