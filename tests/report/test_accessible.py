"""What a reader needs who cannot see the page, sees it in other colours, or goes through it by headings and links."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from medssl import report as reporting
from medssl.evaluate import evaluate
from medssl.report import write_report
from medssl.report.drawing import COLOUR
from tests.evaluate.test_sections import scored
from tests.report.test_hostile_content import VOID, outlined

STYLE = (Path(reporting.__file__).parent / "report.css").read_text()


class Tree(HTMLParser):
    """Every element as (tag, attributes, tags around it, text within it)."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [one[0] for one in self.open], [])
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[3].append(data)

    def of(self, *tags):
        return [element for element in self.found if element[0] in tags]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    report = evaluate({"glaucoma": scored(), "gland": outlined("A")}, minimum_patients=12)
    return Tree(write_report(report, tmp_path_factory.mktemp("page")).read_text(encoding="utf-8"))


def test_it_has_a_language_a_title_and_parts(tree):
    assert tree.of("html")[0][1]["lang"] == "en"
    assert "".join(tree.of("title")[0][3]).strip()
    assert [len(tree.of(tag)) for tag in ("h1", "main", "header")] == [1, 1, 1]
    for tag in ("nav", "aside"):
        assert all(attributes["aria-label"] for _, attributes, _, _ in tree.of(tag))


def test_headings_go_down_one_step_at_a_time(tree):
    levels = [int(tag[1]) for tag, *_ in tree.of("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all("".join(text).strip() for *_, text in tree.of("h1", "h2", "h3"))


def test_every_picture_says_what_it_shows_or_stands_beside_it(tree):
    ids = {attributes["id"] for _, attributes, _, _ in tree.found if "id" in attributes}
    drawings = [element for element in tree.of("svg") if "svg" not in element[2]]
    assert drawings
    for _, attributes, around, _ in drawings:
        if attributes.get("aria-hidden") == "true":
            assert {"td", "th"} & set(around)
        else:
            assert attributes["role"] == "img"
            assert set(attributes["aria-labelledby"].split()) <= ids
    for _, attributes, _, _ in tree.found:
        if attributes.get("role") == "img":
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def test_every_table_has_a_caption_with_its_number_and_heads_with_scope(tree):
    captions = ["".join(text).strip() for *_, text in tree.of("caption")]
    assert len(captions) == len(tree.of("table")) > 8
    assert [caption.split(".")[0] for caption in captions] == [f"Table {k}" for k in range(1, len(captions) + 1)]
    figures = ["".join(text).strip() for *_, text in tree.of("figcaption")]
    assert [caption.split(".")[0] for caption in figures] == [f"Figure {k}" for k in range(1, len(figures) + 1)]
    for _, attributes, _, text in tree.of("th"):
        assert attributes["scope"] in ("col", "row", "colgroup", "rowgroup")
        assert "".join(text).strip() or attributes.get("aria-label")
    assert len(tree.of("thead")) == len(tree.of("table"))


def test_every_link_has_a_name_and_leads_somewhere(tree):
    ids = [attributes["id"] for _, attributes, _, _ in tree.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = tree.of("a")
    assert len(links) > 20
    for _, attributes, _, text in links:
        assert "".join(text).strip()
        assert attributes["href"].removeprefix("#") in ids
    assert all("".join(text).strip() for *_, text in tree.of("summary"))


def test_the_three_readers_find_their_order(tree):
    (order,) = [element for element in tree.of("nav") if element[1]["aria-label"] == "Reading orders and contents"]
    words = "".join(order[3])
    assert [words.index(reader) for reader in ("Clinician", "Regulator", "Researcher")] == sorted(
        words.index(reader) for reader in ("Clinician", "Regulator", "Researcher")
    )


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2: from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_on_white_is_known():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("place", [0, 1, 2], ids=["light", "dark", "print"])
def test_words_stand_out_from_the_page(place):
    themes = [dict(re.findall(r"--(\w+): (#[0-9a-f]+)", theme)) for theme in re.findall(r":root \{([^}]*)\}", STYLE)]
    assert len(themes) == 3
    theme = themes[place]
    for ink in ("ink", "soft", "mark", "calm"):
        for ground in ("page", "card"):
            assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
    assert contrast(COLOUR, theme["page"]) >= 3  # of a drawing's lines
