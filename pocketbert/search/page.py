"""front.html: the models of a search as a picture and a table, in one file that needs nothing from elsewhere."""

from pocketbert.evaluation.page_parts import Place, figure, note, number_table, words
from pocketbert.evaluation.page_style import document
from pocketbert.evaluation.svg import scatter

COLUMNS = {"MB": ("size_mb", "mb"), "ms, one text": ("ms_1", "ms"), "texts a second": ("texts_per_s", "count"),
           "macro-F1": ("macro_f1", "score"), "kept, %": ("keep", "percent")}
LABELLED = 15               # more labels than that do not fit beside the picture


def front_page(rows, front, title, about):
    """The page. rows: of all models    front: those on the Pareto front    about: what the numbers are, a sentence"""
    models = []
    points = []
    for row in sorted(rows, key=lambda row: row["size_mb"]):
        name = row["folder"].rstrip("/").rpartition("/")[2]
        models.append({"name": name} | row)
        points.append({"name": name, "x": row["size_mb"], "y": row["keep"], "low": row["keep"], "high": row["keep"],
                       "on_front": row in front, "is_reference": False,
                       "label": f"{row['size_mb']:.2f} MB" if row in front[:LABELLED] else ""})
    drawn = scatter("front", points, "MB with tokenizer", "share of the teacher's macro-F1", title, about)
    columns = {head: (lambda model, key=key: model[key], kind) for head, (key, kind) in COLUMNS.items()}
    kinds = ["chosen" if point["on_front"] else "" for point in points]
    return document(title, f"<h1>{words(title, 200)}</h1>{note(words(about, 2000))}{figure(drawn)}"
                           f"{number_table(list(Place(models)), columns, kinds=kinds)}")
