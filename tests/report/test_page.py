"""The page: one file, nothing from outside, nothing a label can do to it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from skimage.io import imsave

from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.report import write_report
from medssl.report.forest import _limits, numbers
from medssl.report.page import tame

NASTY = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a‮b\x07c", "long " * 1000, "$\\frac{ \\1", "東京"]
VOID = {"meta", "img", "br", "hr", "link", "input"}


def content(groups):
    rng = np.random.default_rng(0)
    n = 240
    label = (np.arange(n) % 2).astype(float)
    rows = pd.DataFrame({"sample_id": np.arange(n).astype(str), "patient_id": np.arange(n).astype(str),
                         "split": np.where(np.arange(n) // 6 % 5 == 4, "val", "test"), "label": label,
                         "score": np.clip(0.3 * label + rng.uniform(0, 0.7, n), 0, 1),
                         "race": [groups[k // 2 % len(groups)] for k in range(n)], "site": "one"})  # fmt: skip
    return evaluate({groups[0]: rows}, by=["race", "site"], title=groups[0])


class Page(HTMLParser):
    """Open tags, those found, attributes that load something, and ids."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loads, self.ids, self.text = [], [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.loads += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.mark.parametrize("groups", [["A", "B", "C"], NASTY], ids=["plain", "nasty"])
def test_one_closed_file(tmp_path, groups):
    path = write_report(content(groups), tmp_path)
    page, text = read(path), path.read_text(encoding="utf-8")
    assert page.open == []
    assert not {"script", "iframe", "link", "object", "form"} & set(page.tags)
    assert all(load.startswith(("#", "data:image/png")) for load in page.loads)
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in text
    assert re.search(r"url\((?!#)", text) is None
    assert path.stat().st_size < 2_000_000
    assert (tmp_path / "report.json").exists()


def test_labels_are_shown_as_text_and_cut(tmp_path):
    page = read(write_report(content(NASTY), tmp_path))
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text
    assert "\x07" not in page.text
    assert max(len(word) for word in re.split(r"\n", page.text)) < 5000
    assert tame("x" * 100) == "x" * 59 + "…"


def test_the_first_screen_and_the_numbers(tmp_path):
    report = content(["A", "B", "C"])
    page = read(write_report(report, tmp_path))
    for sentence in report["findings"]:
        assert sentence in page.text
    row = report["analyses"][0]["estimates"][0]
    assert f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})" in page.text
    assert "one level: not evaluated" in page.text
    assert page.tags.count("svg") == page.tags.count("desc") >= 1


def test_pictures_are_inside(tmp_path):
    imsave(
        tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (400, 600), dtype=np.uint8), check_contrast=False
    )
    path = write_report(content(["A", "B"]), tmp_path / "r", {"what it saw <b>": tmp_path / "a.png"})
    page = read(path)
    assert page.tags.count("img") == 1
    assert "what it saw <b>" in page.text
    assert path.stat().st_size < 2_000_000


def test_the_same_content_gives_the_same_page(tmp_path):
    report = content(["A", "B"])
    pages = [write_report(report, tmp_path / name).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_every_plot_has_its_numbers_beneath_it(tmp_path):
    report = content(["A", "B", "C"])
    page = read(write_report(report, tmp_path))
    plotted = page.text[page.text.index("The numbers in this plot") : page.text.index("Who was judged")]
    for row in report["analyses"][0]["estimates"]:
        if row["metric"] == "auroc":
            assert f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})" in plotted


def test_the_grid_has_a_verdict_for_every_group_and_metric(tmp_path):
    report = content(["A", "B", "C"])
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    grid = text[text.index("Each group minus all others") : text.index("<figure>")]
    gaps = [gap for gap in report["analyses"][0]["gaps"] if gap["attribute"] == "race"]
    assert len(gaps) == 9
    for gap in gaps:
        assert grid.count(f'<td class="{gap["verdict"]}"') == sum(g["verdict"] == gap["verdict"] for g in gaps)
    assert grid.count("one level: not evaluated") == 2  # in the legend and for the site


def test_the_command_is_kept_in_both_files(tmp_path):
    page = read(write_report(content(["A", "B"]), tmp_path, command="medssl evaluate <x>"))
    assert "medssl evaluate <x>" in page.text
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["command"] == "medssl evaluate <x>"


def test_what_does_not_fit_or_is_no_picture_is_said(tmp_path):
    large, text = tmp_path / "large.png", tmp_path / "text.png"
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1_300_000))
    text.write_text("no picture")
    path = write_report(content(["A", "B"]), tmp_path / "r", {"too big": large})
    assert "Left out, too large for this page: too big" in read(path).text
    assert path.stat().st_size < 2_000_000
    for picture in (text, tmp_path / "none.png"):
        with pytest.raises(UserError, match=picture.name):
            write_report(content(["A", "B"]), tmp_path / "s", {"x": picture})


def test_signs_are_minus_signs_and_nought_has_none():
    assert numbers({"value": -0.004, "low": -0.104, "high": 0.1}) == "0.00 (−0.10 to 0.10)"
    assert numbers({"value": 0.5, "low": None, "high": None}) == "0.50"
    assert numbers({"value": None, "low": None, "high": None}) == ""


def test_what_is_no_report_is_said(tmp_path):
    with pytest.raises(UserError, match="'analyses' is missing"):
        write_report({"title": "x"}, tmp_path)
    report = content(["A", "B"])
    del report["findings"]
    with pytest.raises(UserError, match="findings"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_outlines_have_a_table_with_units_and_failures_by_group(tmp_path):
    n = np.arange(60)
    missed = n % 10 == 0
    rows = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": "test", "label": np.nan, "score": np.nan,
        "dice_<b>": np.where(missed, 0.0, 0.8), "nsd_<b>": np.where(missed, 0.0, 0.9), "dice_mean": np.where(missed, 0, 0.8),
        "hd95_<b>": np.where(missed, 150.0, 3.0), "missed_<b>": missed.astype(float), "invented_<b>": np.nan,
        "tolerance_mm": 1.5, "site": np.where(n % 2 == 0, "north", "south"),
    })  # fmt: skip
    page = read(write_report(evaluate({"gland": rows}, by=["site"]), tmp_path))
    assert "b" not in page.tags
    for words in (
        "mean Dice", "surface Dice, <b>", "HD95, <b> (mm)", "median HD95, <b> (mm)", "missed, <b>", "17.70", "6 of 60",
        "6 of 30", "0 of 30", "no patient is without this structure", "within 1.5 mm", "the diagonal of the volume",
    ):  # fmt: skip
        assert words in page.text, words


def test_a_plot_of_distances_shows_them_all(tmp_path):
    n = np.arange(40)
    rows = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": "test", "label": np.nan, "score": np.nan,
        "hd95_gland": 3.0 + n % 5,
    })  # fmt: skip
    (analysis,) = evaluate({"gland": rows})["analyses"]
    low, high = _limits(analysis["estimates"][:1])
    assert low < analysis["estimates"][0]["low"]
    assert high > analysis["estimates"][0]["high"]
    assert "HD95, gland (mm) with 95 % interval" in read(write_report(evaluate({"gland": rows}), tmp_path)).text
