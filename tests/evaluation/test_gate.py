"""What passes a gate. Its grammar is that of test_budget.py."""

import pytest

from pocketbert.evaluation.budget import WORDS, parse_budget
from pocketbert.evaluation.gate import check_gate, missed
from small_results import result_of, results_of


def lines(model, text, on="interval", **baseline):
    return missed(model, result_of("base", is_baseline=True, **baseline), parse_budget(text), on)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_reads_its_field_and_an_equal_value_passes(word):
    fields = {"keep": 0.7, "f1_low": 0.7, "accuracy_low": 0.7, "keep_low": 0.7, "macro_f1": 0.9, "accuracy": 0.9,
              "ms_1": 0.7, "ms_32": 0.7, "texts_per_second": 0.7, "bytes": 600_000, "tokenizer_bytes": 100_000,
              "peak_memory_mb": 0.7}
    model = result_of("m", **fields)
    operator = WORDS[word]
    beyond = {">=": 0.71, "<=": 0.69}[operator]
    assert lines(model, f"{word}{operator}0.7") == []
    assert len(lines(model, f"{word}{operator}{beyond}")) == 1


def test_the_lower_end_of_the_interval_counts_and_the_point_on_request():
    model = result_of("m", keep=0.98, keep_low=0.96, accuracy_keep=0.99, accuracy_keep_low=0.95)
    [line] = lines(model, "macro_f1>=0.97*baseline")
    assert line == ("m misses macro_f1>=0.97*baseline: it has 0.98, the lower end of its 95 % interval is 0.96")
    assert lines(model, "macro_f1>=0.97*baseline keep>=0.97", on="point") == []
    assert len(lines(model, "accuracy>=0.96*baseline")) == 1 and lines(model, "accuracy>=0.96*baseline", "point") == []


def test_costs_are_compared_with_the_baselines_own():
    model = result_of("m", ms_1=0.5, peak_memory_mb=None)
    assert lines(model, "ms_1<=0.25*baseline", ms_1=2.0) == []
    assert lines(model, "ms_1<=0.2*baseline", ms_1=2.0) == ["m misses ms_1<=0.2*baseline: it has 0.5, asked is 0.4"]
    assert lines(model, "memory_mb<=900") == ["m misses memory_mb<=900: not measured"]


def test_all_models_but_baseline_and_references_are_checked_and_one_model_alone_is():
    base = result_of("base", is_baseline=True, ms_1=9.0)
    others = [result_of("a", ms_1=3.0), result_of("b", ms_1=1.0), result_of("tf-idf", ms_1=9.0, is_reference=True)]
    found = check_gate(results_of(base, *others), parse_budget("ms_1<=2"))
    assert found == {"conditions": ["ms_1<=2"], "on": "interval", "models": ["a", "b"],
                     "missed": ["a misses ms_1<=2: it has 3"]}
    assert check_gate(results_of(base), parse_budget("ms_1<=2"))["missed"] == ["base misses ms_1<=2: it has 9"]
