"""Budgets in words: what they mean, and what is refused."""

import pytest

from pocketbert.errors import UserError
from pocketbert.evaluation.budget import Condition, parse_budget, violations


def test_a_budget_is_read_word_by_word():
    assert parse_budget("keep>=0.97 ms_1<=0.5, size_mb <= 2") == [
        Condition("keep", ">=", 0.97), Condition("ms_1", "<=", 0.5), Condition("size_mb", "<=", 2.0)]
    assert parse_budget("") == []


def test_a_bound_may_be_a_share_of_the_baselines():
    assert parse_budget("ms_1<=baseline/50 macro_f1>=0.9*baseline") == [
        Condition("ms_1", "<=", 0.02, True), Condition("macro_f1", ">=", 0.9, True)]


@pytest.mark.parametrize("text, message", [
    ("keep>0.97", "does not begin with a condition"), ("speed<=3", "'speed' is not one of"),
    ("size_mb>=2", "write size_mb<="), ("ms_1<=baseline/0", "no number"), ("ms_1<=2ms", "does not begin"),
    ("ms_1", "does not begin")])
def test_what_is_no_condition_is_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_budget(text)


@pytest.mark.parametrize("budget, expected", [
    ("keep>=0.95 ms_1<=2", {}), ("ms_1<=0.5", {"ms_1<=0.5": 1.0}), ("macro_f1>=0.8", {}),
    ("macro_f1>=1*baseline", {"macro_f1>=1*baseline": 0.1}), ("ms_1<=baseline/8", {}),
    ("ms_1<=baseline/16", {"ms_1<=0.0625*baseline": 1.0})])
def test_a_violation_is_the_share_by_which_the_bound_is_missed(budget, expected):
    row, baseline = {"keep": 0.96, "ms_1": 1.0, "macro_f1": 0.81}, {"ms_1": 8.0, "macro_f1": 0.9}
    assert violations(parse_budget(budget), row, baseline) == pytest.approx(expected)
