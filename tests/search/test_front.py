"""Which models are on the front."""

import itertools
import random

from pocketbert.search.front import cheapest, dominates, front_of


def row(macro_f1, size_mb, ms_1):
    return {"macro_f1": macro_f1, "size_mb": size_mb, "ms_1": ms_1}


def test_a_model_dominates_if_it_is_nowhere_worse_and_somewhere_better():
    assert dominates(row(0.8, 1, 1), row(0.8, 1, 2)) and dominates(row(0.9, 1, 1), row(0.8, 1, 1))
    assert not dominates(row(0.8, 1, 1), row(0.8, 1, 1)) and not dominates(row(0.9, 2, 1), row(0.8, 1, 1))


def test_the_front_is_what_remains_when_every_dominated_model_is_gone():
    rng = random.Random(0)
    rows = [row(rng.random(), rng.random(), rng.random()) for _ in range(60)]
    front = front_of(rows)
    assert not any(dominates(a, b) for a, b in itertools.permutations(front, 2))
    assert all(any(dominates(one, other) for one in front) for other in rows if other not in front)
    assert front == sorted(front, key=lambda one: one["size_mb"]) and 1 < len(front) < 60


def test_the_cheapest_is_the_smallest_and_then_the_fastest():
    assert cheapest([row(0.9, 2, 1), row(0.8, 1, 3), row(0.7, 1, 2)]) == row(0.7, 1, 2)
