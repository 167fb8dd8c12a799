"""A process of its own that opens one model and answers: what a server or a command line pays at its start.

    python -m pocketbert.evaluation.first_answer FOLDER MAX_LENGTH < texts, one JSON string a line

It is the library call of an application: an exported folder starts without torch. Line 1 of the output is the label of
the first text; its arrival is the end of the cold start. Line 2 is the peak memory in bytes after all texts were scored
in batches of 32. Run by resources.start_cold.
"""

import json
import sys

from pocketbert.memory import peak_bytes
from pocketbert.models.classifier import Classifier


def main(folder, max_length):
    classify = Classifier(folder, device="cpu", max_length=max_length)
    texts = [json.loads(line) for line in sys.stdin]
    print(classify(texts[0])["label"], flush=True)
    classify(texts)
    print(peak_bytes(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
