"""The models that no other model beats: the Pareto front of score against costs."""

COSTS = ("size_mb", "ms_1")  # smaller is better; the score, macro_f1, is the third axis


def dominates(a, b, costs=COSTS):
    """Is model a at least as good as b everywhere and better somewhere? a, b: {"macro_f1", "size_mb", "ms_1"}"""
    at_least = a["macro_f1"] >= b["macro_f1"] and all(a[cost] <= b[cost] for cost in costs)
    better = a["macro_f1"] > b["macro_f1"] or any(a[cost] < b[cost] for cost in costs)
    return at_least and better


def front_of(rows, costs=COSTS):
    """The rows that no other row dominates, from the smallest file to the largest."""
    front = [row for row in rows if not any(dominates(other, row, costs) for other in rows)]
    return sorted(front, key=lambda row: (row["size_mb"], row["ms_1"]))


def cheapest(rows):
    """The smallest file; of equal files the faster model."""
    return min(rows, key=lambda row: (row["size_mb"], row["ms_1"]))
