"""Label a table of texts on a Ray cluster.

    python docs/examples/ray_data.py runs/mine/pocket tweets labelled 4

Arguments: the model (a folder that every machine can read, or a Hub id), a folder of Parquet files with a column
`text`, the folder to write, and how many workers.
"""

import sys

import numpy as np


class Score:
    """A worker: Ray makes one in a process of its own, which opens the model once, and then calls it with batches."""

    def __init__(self, model, column):
        from pocketbert import Classifier  # here, because the worker needs it
        self.classify = Classifier(model, device="cpu", threads=1)
        self.column = column

    def __call__(self, batch):
        """batch: {column: numpy array (N,)} -> with "label" and "score" beside them; "" and NaN without a text"""
        texts = batch[self.column]
        rows = [i for i, text in enumerate(texts) if isinstance(text, str)]
        labels = np.full(len(texts), "", dtype=object)
        scores = np.full(len(texts), np.nan)
        for i, answer in zip(rows, self.classify([texts[i] for i in rows]), strict=True):
            labels[i] = answer["label"]
            scores[i] = answer["score"]
        return batch | {"label": labels, "score": scores}


def main(model, source, out, workers):
    import ray
    table = ray.data.read_parquet(source)
    labelled = table.map_batches(Score, fn_constructor_args=(model, "text"), batch_size=1024, num_cpus=1,
                                 compute=ray.data.ActorPoolStrategy(size=int(workers)))
    labelled.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
