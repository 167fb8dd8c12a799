"""Students that are made from the teacher: some of its layers, narrower vectors."""

import pytest
import torch

from pocketbert.models.recipes import student_of_teacher
from pocketbert.models.surgery import narrow
from pocketbert.models.svd import narrow_table
from small_models import random_model


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_student_of_all_the_teachers_layers_is_the_teacher(padded_batch):
    teacher = random_model()
    assert torch.equal(student_of_teacher("teacher:layers=0,1,2", teacher)(*padded_batch), teacher(*padded_batch))


def test_student_of_some_layers_has_these_and_leaves_the_teacher_alone():
    teacher = random_model()
    student = student_of_teacher("teacher:layers=0,2", teacher)
    assert len(teacher.layers) == 3 and student.config.num_heads == [4, 4]
    assert torch.equal(student.layers[1].ffn.up.weight, teacher.layers[2].ffn.up.weight)
    student.layers[1].ffn.up.weight.data.zero_()
    assert teacher.layers[2].ffn.up.weight.abs().sum() > 0


@pytest.mark.parametrize("recipe", ["teacher:layers=0,9", "teacher:layers=", "teacher:layers=2,0", "teacher:depth=3",
                                    "teacher:layers=0,-1"])
def test_impossible_layers_are_an_error_that_says_what_is_possible(recipe):
    with pytest.raises(ValueError, match="from 0 to 2"):
        student_of_teacher(recipe, random_model())


def test_narrower_student_with_a_permutation_for_a_projection_is_its_teacher(padded_batch):
    """Permuting the hidden numbers everywhere changes nothing: no matrix, bias or gain was forgotten."""
    for family in ("bert", "roberta", "distilbert"):
        teacher = random_model(family=family)
        permutation = torch.eye(32)[torch.randperm(32)]
        student = narrow(teacher, permutation)
        torch.testing.assert_close(student(*padded_batch), teacher(*padded_batch), atol=1e-5, rtol=1e-4)


def test_narrow_table_is_the_best_of_its_rank():
    """Eckart and Young: the error is the root of the squares of the singular values that were dropped."""
    table, width = random_tensor(50, 8) @ random_tensor(8, 8, seed=1), 3
    narrow, projection = narrow_table(table, width)
    assert narrow.shape == (50, 3) and projection.shape == (8, 3)
    error = torch.linalg.matrix_norm(table - narrow @ projection.T)
    torch.testing.assert_close(error, torch.linalg.svdvals(table)[width:].square().sum().sqrt(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projection.T @ projection, torch.eye(3), atol=1e-5, rtol=0)
    for seed in range(20):
        other = torch.linalg.qr(random_tensor(8, 3, seed=seed)).Q
        assert torch.linalg.matrix_norm(table - table @ other @ other.T) >= error


def test_narrow_table_of_full_width_keeps_all_scalar_products():
    table = random_tensor(20, 8)
    narrow, _ = narrow_table(table, 8)
    torch.testing.assert_close(narrow @ narrow.T, table @ table.T, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("width", [0, 9])
def test_impossible_width_is_an_error(width):
    with pytest.raises(ValueError, match="width 8"):
        narrow_table(random_tensor(20, 8), width)
