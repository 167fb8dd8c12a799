"""One writer of tables: Markdown whose columns also line up in a terminal."""


def markdown_table(rows, align):
    """Lines of a Markdown table.

    rows: lists of strings, the first one is the heading    align: a letter for each column, "l" (left) or "r" (right)
    """
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [table_line(row, widths, align) for row in cells]
    rule = ["-" * width if side == "l" else "-" * (width - 1) + ":" for width, side in zip(widths, align, strict=True)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def table_line(row, widths, align):
    padded = []
    for cell, width, side in zip(row, widths, align, strict=True):
        padded.append(cell.ljust(width) if side == "l" else cell.rjust(width))
    return "| " + " | ".join(padded) + " |"


def escape(cell):
    """A cell that cannot end the table: no line breaks, and a bar is written as Markdown writes it."""
    return " ".join(cell.split()).replace("|", "\\|")


def difference_cell(difference, low, high):
    """A difference of macro-F1 in points, with its 95 % interval: "-0.4 [-1.2, +0.3]"."""
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
