"""The part of report.html about what a model takes: time, memory, bytes, the machine, and how to build it again."""

from pocketbert.evaluation.page_parts import (
    clean,
    counted,
    figure,
    folded,
    name_of,
    note,
    number,
    number_table,
    section,
    words,
)
from pocketbert.evaluation.svg import shares

PARTS = ("embeddings", "encoder", "head", "tokenizer")
COMMANDS_LENGTH = 20_000    # characters of a model's commands that are shown


def field(*keys):
    """The function from a model to its place at model[key][key]..."""
    def place_in(model):
        for key in keys:
            model = model[key]
        return model
    return place_in


def cost_section(results):
    """Time, start and memory, bytes: a table each."""
    return section("cost", "What does it take?", time_table(results), threads_table(results), start_table(results),
                   size_table(results))


def time_table(results):
    columns = {"one text: median": (field("ms_1"), "ms"), "p95": (field("ms_1_p95"), "ms"),
               "p99": (field("ms_1_p99"), "ms"), "median with tokenising": (field("ms_1_from_text"), "ms"),
               "32 texts: median": (field("ms_32"), "ms"), "p95 ": (field("ms_32_p95"), "ms"),
               "p99 ": (field("ms_32_p99"), "ms"), "median with tokenising ": (field("ms_32_from_text"), "ms"),
               "texts a second": (field("texts_per_second"), "count")}
    return "<h3>Milliseconds</h3>" + note(
        f"With {counted(results['hardware']['threads'], 'thread')}, the models taking turns on the same texts of all "
        "lengths. p95: 19 of 20 were faster. Texts a second: from raw strings, in batches of 32."
        ) + number_table(list(results["models"]), columns)


def threads_table(results):
    models = [model for model in results["models"] if model["other_threads"]]
    if not models:
        return ""
    columns = {"ms, one text": (field("other_threads", "ms_1"), "ms"),
               "ms, 32 texts": (field("other_threads", "ms_32"), "ms"),
               "x faster, one text": (field("other_threads", "speedup_1"), "factor"),
               "x faster, 32 texts": (field("other_threads", "speedup_32"), "factor"),
               "texts a second": (field("other_threads", "texts_per_second"), "count")}
    count = counted(models[0]["other_threads"]["threads"], "thread")
    return f"<h3>The same with {count}</h3>" + number_table(models, columns)


def start_table(results):
    columns = {"cold start, ms": (field("cold_start_ms"), "count"),
               "peak memory, MB": (field("peak_memory_mb"), "count"),
               "another answer in a batch, %": (field("batch_mates", "labels_changed"), "percent"),
               "joules for 1,000 texts": (field("joules_per_1000_texts"), "plain")}
    models = [model for model in results["models"] if not model["is_reference"]]
    found = number_table(models, columns)
    return found and "<h3>Start and memory</h3>" + note(
        "Cold start: from the start of a process to its first answer. Memory: the peak of that process. Another answer "
        "in a batch: texts whose label differs between a batch of 32 and the text alone.") + found


def size_table(results):
    columns = {"parameters": (field("parameters"), "count"), "MFLOPs a text": (field("flops"), "mflops"),
               "embeddings, MB": (field("bytes_by_part", "embeddings"), "mb_of_bytes"),
               "encoder, MB": (field("bytes_by_part", "encoder"), "mb_of_bytes"),
               "head, MB": (field("bytes_by_part", "head"), "mb_of_bytes"),
               "all weights, MB": (field("bytes"), "mb_of_bytes"),
               "tokenizer, MB": (field("tokenizer_bytes"), "mb_of_bytes"),
               "everything zipped, MB": (field("zipped_bytes"), "mb_of_bytes")}
    return "<h3>Bytes of the files</h3>" + note(
        "In 10<sup>6</sup> bytes. MFLOPs: millions of floating-point operations for a text of "
        f"{number(results['mean_tokens'], 'plain')} tokens, the mean of these texts."
        ) + number_table(list(results["models"]), columns) + byte_shares(results)


def byte_shares(results):
    """Which part of each model the bytes go to."""
    rows = []
    for model in results["models"]:
        parts = [model["bytes_by_part"][part].value or 0 for part in PARTS[:-1]]
        if any(parts):
            rows.append({"name": model["name"].value, "parts": [*parts, model["tokenizer_bytes"].value or 0]})
    if not rows:
        return ""
    said = "; ".join(f"{row['name']}: " + ", ".join(f"{part} {100 * value / sum(row['parts']):.0f} %" for part, value
                                                    in zip(PARTS, row["parts"], strict=True)) for row in rows)
    keys = "".join(f'<span class="c{i}">{part}</span>' for i, part in enumerate(PARTS))
    return figure(shares("bytes", rows, "Where the bytes of each model are", said),
                  f'Where the bytes are<div class="key">{keys}</div>')


def machine_section(results):
    """The hardware card: times mean nothing without it."""
    hardware = results["hardware"]
    data = f"{results['data'].value} (fingerprint {results['fingerprint'].value})"
    facts = {"processor": hardware["processor"].value,
             "vector instructions": " ".join(hardware["instructions"].value or []) or "none known",
             "cores": hardware["cores"].value, "threads in use": hardware["threads"].value,
             "GPU": hardware["gpu"].value or "none", "torch": hardware["torch"].value,
             "int8 engine": hardware["int8_engine"].value, "measured": results["measured"].value, "data": data,
             "tokens kept of a text": results["max_length"].value}
    known = {"processor", "instructions", "cores", "threads", "gpu", "torch", "int8_engine"}
    facts |= {key: hardware[key].value for key in hardware if key not in known}
    lines = "".join(f"<dt>{words(key)}</dt><dd>{words(value, 200)}</dd>" for key, value in facts.items()
                    if value not in (None, ""))
    return section("machine", "On which machine was this timed?", f"<dl>{lines}</dl>", note(
        "Compare the ratios of one report, not milliseconds of two: the models of one report took turns."))


def rebuild_section(results):
    """Under each model the commands that make it from raw data."""
    parts = []
    for model in results["models"]:
        if model["commands"]:
            lines = "\n".join(str(line.value) for line in model["commands"])
            folder = f'<span class="soft">{words(model["folder"].value, 200)}</span>'
            parts.append(folded(f"<b>{name_of(model)}</b> {folder}", f"<pre>{clean(lines[:COMMANDS_LENGTH])}</pre>"))
    return section("rebuild", "How is each model rebuilt?", note(
        "The commands from raw data to the folder, parents first, as their run.json files tell; to be run in a "
        "checkout of the project."), *parts) if parts else ""
