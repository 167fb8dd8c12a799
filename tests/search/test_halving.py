"""Which candidate is trained further, and when."""

from pocketbert.search.candidates import (
    EPOCHS,
    FIRST,
    SPACE,
    as_params,
    command_of,
    name_of,
    recipe_of,
    spread_layers,
    suggest,
)
from pocketbert.search.halving import next_promotion


class FixedTrial:
    """Suggests what it was given."""

    def __init__(self, params):
        self.params = params

    def suggest_categorical(self, name, choices):
        assert self.params[name] in choices
        return self.params[name]


def trial(hidden, score, epochs=1, size_mb=1.0, affordable=True):
    rows = [{"macro_f1": score, "size_mb": size_mb, "ms_1": size_mb}] if score else []
    return {"candidate": {"kind": "cnn", "hidden": hidden}, "epochs": epochs, "rows": rows, "affordable": affordable}


def test_nothing_is_promoted_before_three_candidates_have_finished():
    assert next_promotion([trial(1, 0.5), trial(2, 0.6)]) is None
    assert next_promotion([trial(1, 0.5), trial(2, 0.6), trial(3, None)]) is None  # the third is running


def test_the_best_of_three_goes_on_to_more_epochs_once():
    trials = [trial(1, 0.5), trial(2, 0.7), trial(3, 0.6)]
    assert next_promotion(trials) == ({"kind": "cnn", "hidden": 2}, EPOCHS["cnn"][1])
    assert next_promotion([*trials, trial(2, None, epochs=EPOCHS["cnn"][1])]) is None


def test_what_is_above_the_budget_or_beaten_by_a_smaller_model_is_not_promoted():
    trials = [trial(1, 0.9, affordable=False), trial(2, 0.7, size_mb=2.0), trial(3, 0.8, size_mb=1.0)]
    assert next_promotion(trials)[0]["hidden"] == 3


def test_the_last_rung_goes_no_further():
    assert next_promotion([trial(i, 0.5 + i / 10, epochs=EPOCHS["cnn"][-1]) for i in range(3)]) is None


def test_every_first_candidate_lies_in_the_space_and_is_suggested_back():
    for candidate in FIRST:
        assert set(candidate) - {"kind"} == set(SPACE[candidate["kind"]])
        epochs = EPOCHS[candidate["kind"]][0]
        assert suggest(FixedTrial(as_params(candidate, epochs)), SPACE) == (candidate, epochs)


def test_candidates_of_different_values_have_different_names():
    names = {name_of(candidate, epochs) for candidate in FIRST for epochs in (1, 3)}
    assert len(names) == 2 * len(FIRST)


def test_layers_are_spread_and_the_last_one_stays():
    assert spread_layers(6, 0.5) == [1, 3, 5] and spread_layers(6, 0.01) == [5] and spread_layers(3, 1.0) == [0, 1, 2]
    assert recipe_of({"kind": "layers", "share": 0.5}, depth=6) == "teacher:layers=1,3,5"


def test_pruned_candidates_are_recovered_only_if_they_have_epochs():
    candidate = {"kind": "pruned", "share": 0.5}
    at_once = command_of(candidate, 0, "t", 6, "o", [], [])
    recovered = command_of(candidate, 1, "t", 6, "o", [], [])
    assert at_once[0] == "prune" and "--epochs" not in at_once[1] and "self" in recovered[1]
