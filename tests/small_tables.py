"""Small files of labelled texts for the tests."""

import json

from data_utils import load_dataset


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def many(n=20):
    """Rows of a CSV file with the columns text and label."""
    return "".join(f"plain text {i},{'pos' if i % 2 else 'neg'}\n" for i in range(n))


def all_texts(dataset):
    """{text: label name} of the training file, also of the rows that became the validation split."""
    return {text: dataset.label_names[label] for part in (dataset.train, dataset.validation)
            for text, label in zip(part.texts, part.labels, strict=True)}


def load_own(tmp_path, content, name="mine.csv", **columns):
    """({text: label name}, all notes as one string, Dataset) of a file with this content."""
    dataset = load_dataset(str(write(tmp_path / name, content)), **columns)
    return all_texts(dataset), "\n".join(dataset.notes), dataset


def labelled(labels):
    """A CSV file with one text for each of the labels."""
    return "text,label\n" + "".join(f"text {i},{label}\n" for i, label in enumerate(labels))
