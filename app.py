"""A page for people who look rather than type: try models, compare two, label a file, translate first.

    make page                                           http://localhost:8501, with the models below runs/
    python app.py --runs runs /srv/models --no-hub
    streamlit run app.py -- --runs runs                 the same, with Streamlit's own flags before the --

Every model is opened once for all visitors. Only folders below --runs can be opened, and models of the Hub unless
--no-hub is given. The page has no password: on a network, put it behind a server that asks for one.

Here stand the widgets. Which folders may be opened is in pocketbert/app/shelf.py, files in uploads.py, translation in
languages.py, the rule for label sets of different sizes in sentiment.py; what decides about the words is in
pocketbert/evaluation/explain.py.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from data_utils import take
from evaluate import compare, open_texts
from pocketbert.app.languages import MULTILINGUAL, to_english
from pocketbert.app.markup import STYLE, card, cards, coloured, megabytes, plain, problem_card, table
from pocketbert.app.sentiment import on_three_classes
from pocketbert.app.shelf import Shelf, ask
from pocketbert.app.uploads import (
    KINDS,
    MOST_MB,
    MOST_ROWS,
    columns_of,
    guess_column,
    label_rows,
    labelled_file,
    read_rows,
    time_left,
    uploaded,
)
from pocketbert.cli import parser_for, positive_int, run_script
from pocketbert.data.datasets import DATASETS
from pocketbert.errors import UserError
from pocketbert.evaluation.explain import integrated_gradients, occlusion, read_words
from pocketbert.evaluation.plots import plot_confusions
from pocketbert.evaluation.report import COLUMNS, remarks
from pocketbert.evaluation.tables import difference_cell

try:
    import streamlit as st
except ModuleNotFoundError:
    st = None  # main says what to install

TRIO = ("cardiffnlp/twitter-roberta-base-sentiment-latest", MULTILINGUAL)   # the third is one's own
MOST_TEXTS = 100            # of a text area
MOST_CHARACTERS = 20_000
MOST_COMPARED = 5_000       # texts of a comparison
SETTINGS = ["--browser.gatherUsageStats=false", f"--server.maxUploadSize={MOST_MB}", "--server.fileWatcherType=none",
            "--server.headless=true", "--client.toolbarMode=minimal", "--client.showErrorDetails=none",
            "--theme.primaryColor=#2563eb"]
KEPT = ("texts", "models", "hub", "foreign", "three_texts")     # what is typed stays when another section is opened


# ---- asking models ---------------------------------------------------------------------------------------

def lines_of(text):
    """The texts of a text area: its lines that are not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_TEXTS:
        st.warning(f"Only the first {MOST_TEXTS} of {len(lines):,} texts: for more, label a file.")
    return lines[:MOST_TEXTS]


def answers_of(shelf, names, texts):
    """{name: (Model, Answers)}, or {name: message} for a model that cannot be opened or asked."""
    found = {}
    for name in names:
        try:
            with st.spinner(f"asking {plain(name)} ..."):
                model = shelf.open(name)
                found[name] = model, ask(model, texts)
        except (UserError, OSError) as error:
            found[name] = str(error)
    return found


def show_answers(found, texts):
    """One text: a card a model. Several: a table with a column a model, and a line about each."""
    if len(texts) == 1:
        st.html(cards(problem_card(name, answer) if isinstance(answer, str) else model_card(name, *answer)
                      for name, answer in found.items()))
        return
    broken = [problem_card(name, answer) for name, answer in found.items() if isinstance(answer, str)]
    if broken:
        st.html(cards(broken))
    found = {name: answer for name, answer in found.items() if not isinstance(answer, str)}
    rows = [["text", *found]]
    for i, text in enumerate(texts):
        rows.append([text, *[label_cell(answers, i) for _, answers in found.values()]])
    rows.append(["size and time for all texts", *[about(model, answers) for model, answers in found.values()]])
    st.html(table(rows))


def about(model, answers):
    """The small print about a model: megabytes, milliseconds."""
    cut = f" · {answers.cut} cut at {model.classifier.max_length} tokens" if answers.cut else ""
    return f"{megabytes(model.bytes)} · {answers.ms:.1f} ms{cut}"


def model_card(name, model, answers):
    row = answers.probabilities[0]
    return card(name, about(model, answers), answers.label_names[row.argmax()],
                dict(zip(answers.label_names, row.tolist(), strict=True)))


def label_cell(answers, i):
    row = answers.probabilities[i]
    return f"{answers.label_names[row.argmax()]} {row.max():.2f}"


# ---- the sections ----------------------------------------------------------------------------------------

def try_models(shelf):
    """Choose models, type texts: labels side by side, and which words did it."""
    names = shelf.names()
    left, right = st.columns([2, 1])
    st.session_state.models = [name for name in st.session_state.get("models", names[:2]) if name in names]
    chosen = left.multiselect("Models", names, key="models")
    hub = right.text_input("or one of the Hub", key="hub", placeholder="org/name") if shelf.hub else ""
    with st.form("try"):
        typed = st.text_area("Texts, one a line", key="texts", max_chars=MOST_CHARACTERS,
                             placeholder="not a fan of the new app, sadly")
        st.form_submit_button("Label", type="primary")
    texts = lines_of(typed)
    chosen = [*chosen, *([hub.strip()] if hub.strip() else [])]
    if not names and not chosen:
        st.info(f"There is no model folder below {plain(', '.join(shelf.roots))} yet: `make all` makes some.")
    if not texts or not chosen:
        return
    found = answers_of(shelf, chosen, texts)
    show_answers(found, texts)
    if st.toggle("Which words did it?", value=True):
        text = st.selectbox("Text", texts) if len(texts) > 1 else texts[0]
        st.caption("Blue words speak for the label, orange ones against it; the darkest most. Each word's number, in "
                   "nats of log-odds, is shown under the pointer.")
        for name, answer in found.items():
            if not isinstance(answer, str):
                show_words(name, answer[0], text)


def show_words(name, model, text):
    """The text, coloured by occlusion and by integrated gradients."""
    words = read_words(model.classifier.tokenizer, text, model.classifier.max_length)
    probabilities = ask(model, [text]).probabilities[0]
    label = int(probabilities.argmax())
    st.markdown(f"**{plain(name)}**: why {plain(model.classifier.label_names[label])}")
    left, right = st.columns(2)
    with left:
        st.caption("Occlusion: what the label loses without the word")
        st.html(coloured(words.text, words.spans,
                         occlusion(model.network, words, label, model.classifier.tokenizer.pad_id)))
    with right:
        st.caption("Integrated gradients: the word's share of all the words' effect")
        try:
            scores, _ = integrated_gradients(model.network, words, label)
            st.html(coloured(words.text, words.spans, scores))
        except UserError as error:
            st.caption(plain(error))


def compare_models(shelf, data_dir):
    """Two folders on labelled texts: the numbers of evaluate.py's report."""
    names = shelf.names()
    left, right = st.columns(2)
    baseline = left.selectbox("Baseline", names, index=0 if names else None)
    other = right.selectbox("Compared with it", names, index=1 if len(names) > 1 else None)
    source = st.radio("Labelled texts", ["a file of mine", "a registered dataset"], horizontal=True)
    upload, registered = None, None
    if source == "a file of mine":
        upload = st.file_uploader(f"CSV, TSV or JSON lines with a text and a label, at most {MOST_MB} MB",
                                  type=KINDS[:4])
    else:
        registered = st.selectbox("Dataset", [name for name in DATASETS if name != "demo:unlabelled"])
    most = st.number_input("Texts, at most", 50, MOST_COMPARED, 1000, step=50,
                           help="a stratified subset, so that the answer does not take minutes")
    if st.button("Compare", type="primary", disabled=not (baseline and other and (upload or registered))):
        with st.spinner("scoring and timing, one comparison at a time ..."):
            st.session_state.comparison = compare_two(shelf, [baseline, other], upload, registered, data_dir, most)
    if "comparison" in st.session_state:
        show_comparison(*st.session_state.comparison)


def compare_two(shelf, names, upload, registered, data_dir, most):
    """(Results of evaluate.compare, notes about the data)"""
    if names[0] == names[1]:
        raise UserError("choose two different models")
    models = [shelf.open(name).for_comparison() for name in names]
    labels = [model.model.config.label_names for model in models]
    if labels[0] != labels[1]:
        raise UserError(f"{names[0]} has the labels {', '.join(labels[0])}, {names[1]} {', '.join(labels[1])}: compare "
                        "models of one task")
    if upload:
        with uploaded(upload.name, upload.getvalue()) as path:
            data = open_texts(labels[0], None, str(path))
            data = replace(data, name=upload.name)
    else:
        data = open_texts(labels[0], registered, None, data_dir)
    split = "test" if data.test else "validation"
    if len(getattr(data, split)) > most:
        data = replace(data, **{split: take(getattr(data, split), most, seed=0)})
    with shelf.measuring:
        return compare(models, data, split=split, baseline=names[0], quick=True, references=()), data.notes


def show_comparison(results, notes):
    """The report's tables: the two models, the flips, the slices, the classes."""
    st.html(table([list(COLUMNS)] + [[cell(model) for cell in COLUMNS.values()] for model in results.models]))
    st.markdown("\n".join(f"- {plain(line)}" for line in [*remarks(results), *notes]))
    other = next(model for model in results.models if not model.is_baseline)
    st.subheader("Texts whose answer changed")
    st.caption(plain(f"Of {other.flips['of']:,} texts, {other.flips['broken']:,} were right and are wrong now, and "
                     f"{other.flips['fixed']:,} the other way round. The most confident of the first:"))
    if other.flips["examples"]:
        st.html(table([["text", "label", "baseline", "compared", "confidence"]] + [
            [flip["text"], flip["label"], flip["baseline"], flip["model"], f"{flip['confidence']:.3f}"]
            for flip in other.flips["examples"]]))
    if other.slices:
        st.subheader("Kinds of texts")
        st.html(table([["slice", "texts", "accuracy", "difference [95 %]"]] + [
            [name, f"{part['texts']:,}", f"{part['accuracy']:.4f}",
             difference_cell(part["difference"], part["low"], part["high"])] for name, part in other.slices.items()]))
    st.subheader("Classes")
    st.html(table([["F1 by class", "texts", *[model.name for model in results.models]]] + [
        [name, f"{other.per_class[name]['texts']:,}",
         *[f"{model.per_class[name]['f1']:.4f}" for model in results.models]] for name in results.label_names]))
    with tempfile.TemporaryDirectory() as folder:
        plot_confusions(results, Path(folder) / "confusion.png")
        st.image((Path(folder) / "confusion.png").read_bytes(), caption="Confusion, in per cent of the true class")


def label_file(shelf):
    """Upload a file, get it back with labels: every row, in order."""
    name = st.selectbox("Model", shelf.names())
    upload = st.file_uploader(f"CSV, TSV, JSON lines, or one text a line; at most {MOST_MB} MB and {MOST_ROWS:,} rows",
                              type=KINDS)
    if upload is None or name is None:
        return
    with uploaded(upload.name, upload.getvalue()) as path:
        columns = columns_of(path)
        column = None
        if columns:
            column = st.selectbox("The column of the text", columns, index=columns.index(guess_column(columns)))
        rows = read_rows(path, column)
    st.caption(f"{len(rows):,} rows")
    job = (name, upload.file_id, column)
    if st.button("Label all rows", type="primary", disabled=not rows):
        st.session_state.labelled = job, *label_with_progress(shelf.open(name), rows, path.suffix[1:])
    if st.session_state.get("labelled", [None])[0] == job:
        _, ending, data, wrong = st.session_state.labelled
        if wrong:
            st.warning(f"{wrong:,} rows have no text: their column error says why")
        st.download_button("Download", data, f"{Path(upload.name).stem}.labelled.{ending}", on_click="ignore")


def label_with_progress(model, rows, kind):
    """(ending, bytes, rows without a text) of the labelled file; shows a bar and the time that is left."""
    progress = st.progress(0.0)
    start = time.monotonic()
    answers = []
    for done, answers in label_rows(model.classifier, rows):  # noqa: B007  (the last answers are all)
        left = time_left(time.monotonic() - start, done, len(rows))
        progress.progress(done / len(rows), f"{done:,} of {len(rows):,} rows, {left}")
    return *labelled_file(kind, rows, answers), sum("error" in answer for answer in answers)


def translate_first(shelf):
    """For a model that only knows English: find the language, translate, show both, label."""
    names = shelf.names()
    name = st.selectbox("A model for English", names)
    with st.form("translate"):
        typed = st.text_area("Texts in any language, one a line", key="foreign", max_chars=MOST_CHARACTERS,
                             placeholder="Não gostei nada do novo aplicativo")
        st.form_submit_button("Translate and label", type="primary")
    texts = lines_of(typed)
    if not texts or name is None:
        return
    with st.spinner("translating ..."):
        translations = [to_english(text) for text in texts]
    model = shelf.open(name)
    answers = ask(model, [translation.english for translation in translations])
    rows = [["text", "language", "what the model reads", name]]
    for i, translation in enumerate(translations):
        by = f"{translation.english} ({translation.by})" if translation.by else translation.english
        read = "" if translation.problem else by
        rows.append([translation.text, translation.language_name, read,
                     "" if translation.problem else label_cell(answers, i)])
    st.html(table(rows, texts=True))
    left_over = [translation for translation in translations if translation.problem]
    if not left_over:
        return
    st.warning("  \n".join(dict.fromkeys(plain(translation.problem) for translation in left_over)))
    options = [*([MULTILINGUAL] if shelf.hub else []), *names]
    multilingual = st.selectbox("Ask a multilingual model in their place, without translation", options, index=None)
    if multilingual:
        texts = [translation.text for translation in left_over]
        show_answers(answers_of(shelf, [multilingual], texts), texts)


def three_models(shelf):
    """Three models whose label sets may differ, on one scale."""
    options = [*(TRIO if shelf.hub else ()), *shelf.names()]
    own = next((i for i, name in enumerate(options) if name not in TRIO), None)
    chosen = []
    for column, index in zip(st.columns(3), (0, 1, own), strict=True):
        position = len(chosen) + 1
        chosen.append(column.selectbox(f"Model {position}", options, key=f"three_{position}",
                                       index=index if index is not None and index < len(options) else None))
    st.caption("Very or extremely negative counts as negative, and the same for positive: their probabilities are "
               "added. A model without neutral gives it 0.")
    with st.form("three"):
        typed = st.text_area("Texts, one a line", key="three_texts", max_chars=MOST_CHARACTERS)
        st.form_submit_button("Label", type="primary")
    texts = lines_of(typed)
    chosen = list(dict.fromkeys(name for name in chosen if name))
    if not texts or not chosen:
        return
    found = answers_of(shelf, chosen, texts)
    if len(texts) == 1:
        st.html(cards(three_card(name, answer) for name, answer in found.items()))
        return
    st.html(table([["text", *found]] + [[text, *[three_cell(answer, i) for answer in found.values()]]
                                        for i, text in enumerate(texts)]))


def three_card(name, answer):
    """A model's answer on the three classes, and in its own words."""
    if isinstance(answer, str):
        return problem_card(name, answer)
    model, answers = answer
    try:
        three = on_three_classes(answers.label_names, answers.probabilities[0])
    except UserError as error:
        return problem_card(name, str(error))
    own = f"{len(answers.label_names)} classes, its own answer: {label_cell(answers, 0)}"
    return card(name, f"{about(model, answers)} · {own}", max(three, key=three.get), three)


def three_cell(answer, i):
    """The same as three_card for text i, in a cell of a table."""
    try:
        three = on_three_classes(answer[1].label_names, answer[1].probabilities[i])
    except UserError as error:
        return str(error)
    label = max(three, key=three.get)
    return f"{label} {three[label]:.2f} (its own: {label_cell(answer[1], i)})"


SECTIONS = {"Try": try_models, "Compare": compare_models, "Label a file": label_file,
            "Translate first": translate_first, "Three models": three_models}


# ---- the page --------------------------------------------------------------------------------------------

def page(roots, data_dir, hub, device):
    """One run of the page for one visitor: Streamlit calls it again after each click."""
    st.set_page_config(page_title="PocketBERT", layout="wide")
    st.html(STYLE)
    shelf = st.cache_resource(Shelf, show_spinner=False)(tuple(roots), hub, device)
    for key in KEPT:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]
    st.title("PocketBERT")
    section = st.segmented_control("Section", list(SECTIONS), default="Try", label_visibility="collapsed") or "Try"
    try:
        if section == "Compare":
            compare_models(shelf, data_dir)
        else:
            SECTIONS[section](shelf)
    except (UserError, OSError) as error:
        st.error(plain(error))


def parse_args(argv):
    parser = parser_for(__doc__)
    parser.add_argument("--runs", nargs="+", default=["runs"], metavar="FOLDER",
                        help="the page opens model folders below these, and no others")
    parser.add_argument("--hub", action=argparse.BooleanOptionalAction, default=True,
                        help="may visitors name a model of the Hub, which is then fetched?")
    parser.add_argument("--data-dir", default="data", help="where registered datasets lie, as DATA_DIR/NAME/")
    parser.add_argument("--device", default="cpu", help="cpu, auto, cuda, cuda:1, mps")
    parser.add_argument("--host", default="localhost", help="the address to listen at; 0.0.0.0: all, with no password")
    parser.add_argument("--port", type=positive_int, default=8501, help="the port to listen at")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's error, too")
    return parser.parse_args(argv)


def main(argv=None):
    """Start Streamlit's server, or inside it, show the page."""
    argv = sys.argv[1:] if argv is None else [str(arg) for arg in argv]
    args = parse_args(argv)
    if st is None:
        raise UserError("the page needs streamlit: pip install -r requirements-app.txt")
    missing = [root for root in args.runs if not Path(root).is_dir()]
    if missing:
        raise FileNotFoundError(f"--runs {missing[0]} is no folder here: `make all` makes runs/")
    if st.runtime.scriptrunner.get_script_run_ctx(suppress_warning=True) is None:
        flags = [*SETTINGS, "--server.address", args.host, "--server.port", str(args.port)]
        done = subprocess.run([sys.executable, "-m", "streamlit", "run", __file__, *flags, "--", *argv])
        sys.exit(done.returncode)
    page(args.runs, args.data_dir, args.hub, args.device)


if __name__ == "__main__":
    run_script(main)
