"""The texts of multilingual_sentiment that are scored, in one file a language, for `evaluate.py --test`.

    python benchmarks/systems/languages.py --data-dir data --out runs/systems/toolkit/languages

Writes OUT/LANGUAGE.jsonl, from test.jsonl where it is there and from val.jsonl elsewhere, and run.json last.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pocketbert.cli import parser_for, run_script  # noqa: E402
from pocketbert.errors import UserError  # noqa: E402
from pocketbert.files import write_json, write_text  # noqa: E402


def by_language(lines):
    """{language: [{"text", "label"}]} of JSON lines with text, label_text and lang."""
    rows = defaultdict(list)
    for line in lines:
        row = json.loads(line)
        rows[row["lang"]].append({"text": row["text"], "label": row["label_text"]})
    return dict(rows)


def main(argv=None):
    """Returns {language: how many texts}."""
    parser = parser_for(__doc__)
    parser.add_argument("--data-dir", default="data", help="where multilingual_sentiment/ lies")
    parser.add_argument("--out", required=True, help="the folder of the files")
    args = parser.parse_args(argv)
    folder = Path(args.data_dir) / "multilingual_sentiment"
    file = next((folder / name for name in ("test.jsonl", "val.jsonl") if (folder / name).exists()), None)
    if file is None:
        raise UserError(f"{folder} has neither test.jsonl nor val.jsonl")
    rows = by_language(file.read_text(encoding="utf-8").splitlines())
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for language, texts in rows.items():
        write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in texts), out / f"{language}.jsonl")
    counts = {language: len(texts) for language, texts in rows.items()}
    write_json({"script": "languages.py", "file": file.name, "texts": counts}, out / "run.json")
    print(f"{out}: {', '.join(f'{language} {count}' for language, count in counts.items())}")
    return counts


if __name__ == "__main__":
    run_script(main)
