"""The tables and pictures of a report, with names that are hard to write."""

import pytest

from pocketbert.evaluation.report import (
    COLUMNS,
    per_class_table,
    remarks,
    results_csv,
    results_table,
    write_metrics,
    write_report,
)
from pocketbert.evaluation.tables import markdown_table
from small_results import result_of, results_of

WILD = ["$$", r"\$ x_1 $y^2", "a|b", "two\nlines", "_hidden", "50 % {}", "\U0001f600 \u4e2d", r"$\frac{1}$"]


def test_every_line_of_a_table_is_as_long_as_the_first():
    lines = markdown_table([["a", "long heading"], ["b | c", "1\n2"], ["d", ""]], "lr").splitlines()
    assert lines == ["| a      | long heading |", "| ------ | -----------: |", "| b \\| c |          1 2 |",
                     "| d      |              |"]


def test_wild_names_break_neither_tables_nor_pictures(tmp_path):
    models = [result_of(name, label_names=WILD, is_baseline=i == 0) for i, name in enumerate(WILD)]
    results = results_of(*models, label_names=WILD)
    files = write_report(results, tmp_path)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir()) and "training.png" in files
    for table, columns in ((results_table(results), len(COLUMNS)), (per_class_table(results), 2 + len(WILD))):
        lines = table.splitlines()
        assert len(lines) == len(WILD) + 2
        assert all(line.replace("\\|", "").count("|") == columns + 1 for line in lines)


def test_dollars_are_shown_as_text(tmp_path, monkeypatch):
    """Not as mathematics: every name is among the texts that are drawn, as it is."""
    drawn = []
    from matplotlib.backends.backend_agg import RendererAgg
    draw_text = RendererAgg.draw_text
    monkeypatch.setattr(RendererAgg, "draw_text", lambda self, gc, x, y, s, prop, angle, ismath=False, mtext=None: (
        drawn.append((s, ismath)), draw_text(self, gc, x, y, s, prop, angle, ismath, mtext))[1])
    names = ["$$", "$a$", r"\$", "_x"]
    write_report(results_of(*[result_of(name, label_names=names) for name in names], label_names=names), tmp_path)
    assert not any(ismath for _, ismath in drawn)
    assert {"$$", "$a$", r"\$", " _x"} <= {text for text, _ in drawn}


@pytest.mark.parametrize("changes, words", [
    ({"speedup_1": 0.94}, "Slower than the baseline here at batch 1: other."),
    ({"speedup_32": 0.5}, "Slower than the baseline here at batch 32: other."),
    ({"ms_1": 1.0}, "Fastest of them at batch 1: other; at batch 32: third."),
    ({"cut_texts": 1200}, "Texts that were cut at 128 tokens (or at the model's own limit): other 1,200.")])
def test_remark_appears_when_it_is_true_and_only_then(changes, words):
    base = result_of("base", is_baseline=True, low=0, high=0)
    third = result_of("third", ms_1=1.5, ms_32=19.0)
    assert words in remarks(results_of(base, result_of("other", **changes), third))
    assert words not in remarks(results_of(base, result_of("other"), third))


def test_scores_on_validation_texts_are_called_slightly_optimistic():
    words = "scores are slightly optimistic: the best epoch was chosen on these texts"
    assert words in remarks(results_of(result_of("base"), split="validation"))[0]
    assert words not in " ".join(remarks(results_of(result_of("base"))))


def test_csv_holds_every_plain_number():
    header, row = results_csv(results_of(result_of("base"))).split("\r\n")[:2]
    columns = header.split(",")
    assert len(columns) == len(row.split(",")) and {"bytes_mb", "cut_texts", "split"} <= set(columns)


def test_folder_that_cannot_be_written_to_gets_a_note_and_the_others_their_metrics(tmp_path):
    (tmp_path / "locked" / "metrics.json").mkdir(parents=True)  # a folder of that name: as root, modes do not matter
    (tmp_path / "open").mkdir()
    [note] = write_metrics(results_of(result_of("locked", tmp_path / "locked"), result_of("open", tmp_path / "open")))
    assert "locked/metrics.json is not written" in note and (tmp_path / "open" / "metrics.json").is_file()
    assert [path.name for path in (tmp_path / "locked").iterdir()] == ["metrics.json"]  # no temporary file
