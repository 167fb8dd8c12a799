"""Label sets of 2, 3 and 5 sentiments on one scale: the rule by which the page compares such models.

    5 classes                            3 classes
    very (or extremely) negative  \\
    negative                      /      negative
    neutral                              neutral
    positive                      \\
    very (or extremely) positive  /      positive

The probabilities of classes that fall together are added: p(negative) of three = p(very negative) + p(negative) of
five. The other way round there is no rule, because a model of 3 classes does not say how strong a sentiment is: models
are compared on 3 classes. A model of 2 classes has no neutral and gives it 0.
"""

import re

from pocketbert.errors import UserError

THREE = ("negative", "neutral", "positive")
STARS = {"1 star": "negative", "2 stars": "negative", "3 stars": "neutral", "4 stars": "positive",
         "5 stars": "positive"}
SENTIMENT = re.compile(r"(?:(?:very|extremely|strongly) )?(neg(?:ative)?|neutral|pos(?:itive)?)")


def sentiment_of(label):
    """The one of THREE that a label falls in, or None: "Very Negative" -> "negative", "5 stars" -> "positive"."""
    plain = " ".join(re.split(r"[\s_-]+", label.strip().casefold()))
    match = SENTIMENT.fullmatch(plain)
    if match:
        return next(name for name in THREE if name.startswith(match[1][:3]))
    return STARS.get(plain)


def on_three_classes(label_names, probabilities):
    """{"negative": p, "neutral": p, "positive": p}: the probabilities of the labels that fall together, added.

    A UserError where a label is no sentiment, such as "LABEL_0": which one it is would be a guess.
    """
    unknown = [name for name in label_names if sentiment_of(name) is None]
    if unknown:
        raise UserError(f"{', '.join(unknown[:5])}: no names of sentiments; this page knows negative, neutral and "
                        "positive, also with very or extremely, and 1 to 5 stars")
    total = dict.fromkeys(THREE, 0.0)
    for name, probability in zip(label_names, probabilities, strict=True):
        total[sentiment_of(name)] += float(probability)
    return total
