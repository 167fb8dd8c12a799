"""Label sets of 2, 3 and 5 sentiments on one scale."""

import pytest

from pocketbert.app.sentiment import on_three_classes, sentiment_of
from pocketbert.errors import UserError

FIVE = ["Very Negative", "Negative", "Neutral", "Positive", "Very Positive"]


def test_five_classes_are_three_when_those_that_fall_together_are_added():
    assert on_three_classes(FIVE, [0.1, 0.2, 0.4, 0.25, 0.05]) == pytest.approx(
        {"negative": 0.3, "neutral": 0.4, "positive": 0.3})


def test_three_classes_stay_as_they_are_in_any_order_and_two_have_no_neutral():
    assert on_three_classes(["positive", "negative", "neutral"], [0.5, 0.2, 0.3]) == {
        "negative": 0.2, "neutral": 0.3, "positive": 0.5}
    assert on_three_classes(["NEGATIVE", "POSITIVE"], [0.25, 0.75]) == {
        "negative": 0.25, "neutral": 0.0, "positive": 0.75}


@pytest.mark.parametrize(("label", "sentiment"), [
    ("Extremely Positive", "positive"), ("very_negative", "negative"), ("NEG", "negative"), ("pos", "positive"),
    ("1 star", "negative"), ("3 stars", "neutral"), ("5 stars", "positive"), ("LABEL_0", None), ("joy", None),
    ("not negative", None), ("negatively", None)])
def test_names_of_sentiments(label, sentiment):
    assert sentiment_of(label) == sentiment


def test_labels_without_a_sentiment_are_not_guessed():
    with pytest.raises(UserError, match="LABEL_0, LABEL_1"):
        on_three_classes(["LABEL_0", "LABEL_1"], [0.5, 0.5])
