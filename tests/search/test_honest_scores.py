"""The simulation behind the two halves of search.py pareto."""

import importlib.util
from pathlib import Path

SPEC = importlib.util.spec_from_file_location("honest_scores",
                                              Path(__file__).parents[2] / "benchmarks" / "honest_scores.py")


def test_the_half_that_chose_flatters_and_the_other_one_does_not():
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    found = module.simulate(searches=150, models=40, texts=1000, fresh=4000, seed=0)
    assert found["same half"]["mean"] > 5 * found["same half"]["standard_error"]
    assert abs(found["other half"]["mean"]) < 3 * found["other half"]["standard_error"]
