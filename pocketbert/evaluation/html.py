"""report.html: a comparison on one page that needs no explanation and no connection.

    write_page(results.as_dict())  ->  the text of the file

The page is a function of results.json alone, so write_page(read_json("results.json")) makes it again. What was not
measured (--quick, --no-references, an older file) is a dash or is left out.
"""

from pocketbert.evaluation.page_cost import cost_section, machine_section, rebuild_section
from pocketbert.evaluation.page_hurt import calibration_section, class_section, flip_section, slice_section
from pocketbert.evaluation.page_parts import Place, folders, note, words
from pocketbert.evaluation.page_scores import difference_section, front_section, training_section
from pocketbert.evaluation.page_style import document
from pocketbert.evaluation.page_summary import header, ship_section, table_section

SECTIONS = {  # name -> (what the navigation calls it, the function that writes it)
    "table": ("all models", table_section),
    "ship": ("which one to ship?", ship_section),
    "front": ("score against cost", front_section),
    "difference": ("how sure is it?", difference_section),
    "classes": ("which classes got hurt?", class_section),
    "slices": ("which texts?", slice_section),
    "flips": ("what does it get wrong?", flip_section),
    "calibration": ("can I trust a probability?", calibration_section),
    "training": ("training", training_section),
    "cost": ("time, memory, bytes", cost_section),
    "machine": ("on which machine?", machine_section),
    "rebuild": ("how is it rebuilt?", rebuild_section),
}


def write_page(results):
    """The whole file as text. results: Results.as_dict(), which is what results.json holds"""
    results = Place(results)
    sections = {name: (title, write(results)) for name, (title, write) in SECTIONS.items()}
    sections = {name: (title, content) for name, (title, content) in sections.items() if content}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    body = "\n".join(content for _, content in sections.values())
    return document(f"{results['data'].value}: {len(folders(results))} models",
                    f"{header(results)}<nav>{links}</nav>\n{body}\n{footer(results)}")


def footer(results):
    when = words(results["measured"].value or "at an unknown time")
    return f"<footer>{note(f'Measured {when}. Every number is from results.json.')}</footer>"
