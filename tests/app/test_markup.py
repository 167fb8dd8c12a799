"""What the page shows is escaped, and its colours say what the numbers say."""

import re

from pocketbert.app.markup import card, coloured, plain, problem_card, table

EVIL = '<img src=x onerror="alert(1)">'


def test_no_text_label_or_name_becomes_markup():
    for html in (card(EVIL, EVIL, EVIL, {EVIL: 0.5}), problem_card(EVIL, EVIL), table([[EVIL], [EVIL]]),
                 coloured(f"a{EVIL}", [(0, 1), (1, len(EVIL) + 1)], [1.0, -1.0])):
        assert "<img" not in html and "&lt;img" in html


def test_markdown_is_plain_text():
    text = plain("![x](http://e.com) **b** :red[x] $y$ <b> `c`\n# d")
    assert re.sub(r"\\(.)", r"\1", text) == "![x](http://e.com) **b** :red[x] $y$ <b> `c` # d"
    assert not re.search(r"(?<!\\)[\[\]*:$<`#!]", text)


def test_the_strongest_word_is_darkest_and_the_sign_is_the_colour():
    html = coloured("so  bad day", [(0, 2), (4, 7), (8, 11)], [1.0, -4.0, 0.0])
    alphas = [float(alpha) for alpha in re.findall(r"rgba\([\d, ]+, ([\d.]+)\)", html)]
    assert alphas[1] > alphas[0] > alphas[2] == 0
    assert html.count("59, 130, 246") == 1 and 'title="-4.00">bad' in html and "</span>  <span" in html


def test_a_card_shows_the_likeliest_labels_of_many():
    html = card("m", "", "l9", {f"l{i}": i / 45 for i in range(10)})
    assert "l9" in html and "<span>l3</span>" not in html and "and 4 more" in html
