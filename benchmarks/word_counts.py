"""What counting words is worth: TF-IDF of words and pairs, and a logistic regression. A student should beat it.

    python tests/bench_words.py --data tweet_sentiment_extraction
"""

import sys
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

sys.path.insert(0, str(Path(__file__).parent.parent))

from pocketbert import add_common_flags, confusion_matrix, macro_f1, open_data, parser_for, run_script


def main(argv=None):
    parser = parser_for(__doc__)
    add_common_flags(parser)
    data = open_data(parser.parse_args(argv))
    counts = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]+", ngram_range=(1, 2), sublinear_tf=True)  # "!!" is a word
    model = make_pipeline(counts, LogisticRegression(C=4, class_weight="balanced", max_iter=1000))
    model.fit(data.train.texts, data.train.labels)
    predicted = model.predict(data.validation.texts)
    score = macro_f1(confusion_matrix(data.validation.labels, predicted, len(data.label_names)))
    print(f"TF-IDF and logistic regression: validation macro-F1 {score:.4f}")


if __name__ == "__main__":
    run_script(main)
