"""The pictures of the page: where things stand, and that no name leaves the picture."""

import re

import pytest

from pocketbert.evaluation.svg import HEIGHT, WIDTH, apart, curves, linear_ticks, log_ticks, scatter, short


def points_of(*places):
    return [{"name": f"model-{i}", "label": f"model-{i}", "x": x, "y": y, "low": y - 0.01, "high": y + 0.01,
             "on_front": False, "is_reference": False} for i, (x, y) in enumerate(places)]


def circles(picture):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', picture)]


def test_equal_ratios_are_equal_distances_on_the_axis_of_costs_and_a_better_score_is_higher():
    (x0, y0), (x1, y1), (x2, y2) = circles(scatter("s", points_of((1, 0.5), (10, 0.6), (100, 0.8)), "", "", "", ""))
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11) and y0 > y1 > y2
    assert (y0 - y2) / (y0 - y1) == pytest.approx(3, abs=0.02)


def test_front_joins_its_points_from_left_to_right():
    points = points_of((100, 0.8), (1, 0.5), (10, 0.4))
    points[0]["on_front"] = points[1]["on_front"] = True
    picture = scatter("s", points, "", "", "", "")
    [line] = re.findall(r'<polyline points="([^"]+)" class="front"', picture)
    first, second, _ = circles(picture)
    assert line == "{:.1f},{:.1f} {:.1f},{:.1f}".format(*second, *first)


@pytest.mark.parametrize("count", [1, 2, 12])
def test_everything_stays_inside_the_picture_also_if_all_models_are_alike(count):
    for picture in (scatter("s", points_of(*[(1, 0.5)] * count), "", "", "", ""),
                    curves("c", [{"name": "a", "values": [0.5]}] * count, "", "", "")):
        places = re.findall(r'<(?:text x|circle cx)="([\d.-]+)" c?y="([\d.-]+)"', picture)
        assert places and all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in places)


def test_names_are_kept_apart_and_in_order():
    heights = apart([10, 10, 11, 300], 0, 320, gap=15)
    assert heights == sorted(heights) and all(b - a >= 15 for a, b in zip(heights, heights[1:], strict=False))
    assert heights[-1] == 300


def test_ticks_are_round_and_inside():
    assert linear_ticks(0.68, 0.82) == [0.7, 0.75, 0.8]
    assert log_ticks(0.9, 110) == pytest.approx([1, 3, 10, 30, 100])
    assert log_ticks(0.4, 11) == pytest.approx([0.5, 1, 2, 5, 10])


def test_a_long_name_loses_its_middle():
    assert short("a" * 16) == "a" * 16
    assert short("student-of-the-large-one-int8") == "student-…ne-int8" and short("W" * 99) == "WWWWW…WWWW"
