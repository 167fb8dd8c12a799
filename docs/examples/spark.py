"""Label a table of texts with Spark.

    spark-submit docs/examples/spark.py runs/mine/pocket tweets labelled

Arguments: the model (a folder that every machine can read, or a Hub id), a folder of Parquet files with a column
`text`, and the folder to write.
"""

import sys
from functools import partial


def score(frames, model, column):
    """What Spark calls for each partition: an iterator of pandas.DataFrame -> an iterator of them, with "label" and
    "score" beside their columns; both are missing where the text is. The model is opened once for a partition.
    """
    from pocketbert import Classifier  # here, because the worker needs it
    classify = Classifier(model, device="cpu", threads=1)
    for frame in frames:
        known = frame[column].dropna()
        answers = classify(known.tolist())
        frame.loc[known.index, "label"] = [answer["label"] for answer in answers]
        frame.loc[known.index, "score"] = [answer["score"] for answer in answers]
        yield frame


def main(model, source, out):
    from pyspark.sql import SparkSession
    from pyspark.sql.types import DoubleType, StringType, StructType
    spark = SparkSession.builder.appName("pocketbert").getOrCreate()
    table = spark.read.parquet(source)
    schema = StructType([*table.schema.fields]).add("label", StringType()).add("score", DoubleType())
    table.mapInPandas(partial(score, model=model, column="text"), schema).write.mode("overwrite").parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
