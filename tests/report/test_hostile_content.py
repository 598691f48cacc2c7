"""What a table, a file or a colleague may put into a report, and what the page does with it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from skimage.io import imsave

from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.report import write_report

SCHEMA = Path(__file__).parents[2] / "data_manifests" / "report.schema.json"
VOID = {"meta", "img", "br", "hr", "link", "input", "col", "wbr"}
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "comment": "--><b>bold</b><!--",
    "cdata": "]]></svg><iframe src=//x>",
    "style": "</style></title><style>*{display:none}",
    "template": "{{ 7 * 7 }}{% raw %}",
    "mathematics": r"$\nosuch_{x$",
    "dollars": "$a$ $b$",
    "backslash": r"\1 \g<0> \\",
    "drawing": 'id="x" url(#y) href="#z" #000000',
    "direction": "a\u202eb\u2066c\u200fd",
    "control": "a\x07b\x00c\x1bd",
    "lines": "a\nb\r\nc\td",
    "surrogate-free": "\U0001f600 é",
    "script of another kind": "日本語 العربية ไทย",
    "long": "x" * 5000,
    "long words": "long " * 1000,
}


def scored(group, patients=240):
    rng = np.random.default_rng(0)
    n = np.arange(patients)
    label = (n % 2).astype(float)
    return pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": np.where(n % 6 > 3, "val", "test"),
        "label": label, "score": np.clip(0.3 * label + rng.uniform(0, 0.7, patients), 0, 1),
        "race": np.array([group, "B", "C", "unknown"])[n // 2 % 4],
    })  # fmt: skip


def outlined(group, patients=60):
    dice = np.clip(np.random.default_rng(1).normal(0.8, 0.08, patients), 0, 1)
    return pd.DataFrame({
        "sample_id": [f"v{k}" for k in range(patients)], "patient_id": [f"p{k}" for k in range(patients)],
        "split": "test", "label": np.nan, "score": np.nan, "dice_mean": dice, "site": [group, "B"] * (patients // 2),
    })  # fmt: skip


def content(group="A"):
    """A report in which everything that a user may name is called `group`."""
    tables = {group: scored(group).rename(columns={"race": f"race {group[:40]}"}), "gland": outlined(group)}
    return evaluate(tables, title=group, minimum_patients=5)


class Page(HTMLParser):
    """Checks that tags balance while it collects attributes, text, and what each svg holds."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text, self.drawings = [], [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "svg":
            self.drawings.append(set())
        elif "svg" in self.open:
            self.drawings[-1].add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_only_text(tmp_path, name):
    path = write_report(content(HOSTILE[name]), tmp_path)
    text = path.read_text(encoding="utf-8")
    page, harmless = Page(text), Page(write_report(content(), tmp_path / "plain").read_text(encoding="utf-8"))
    assert sorted(page.tags) == sorted(harmless.tags)
    assert not {"script", "iframe", "object", "embed", "form", "base", "link", "image"} & set(page.tags)
    assert sorted(key for key, _ in page.attributes) == sorted(key for key, _ in harmless.attributes)
    assert not [key for key, _ in page.attributes if key.startswith("on")]
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x08\x0b-\x1f\x7f]", page.text)
    assert "x" * 120 not in page.text  # two cells side by side
    assert path.stat().st_size < 500_000


def test_a_name_is_shown_as_it_is(tmp_path):
    for name in ("script", "mathematics", "dollars", "template", "script of another kind"):
        page = Page(write_report(content(HOSTILE[name]), tmp_path).read_text(encoding="utf-8"))
        assert page.text.count(HOSTILE[name]) >= 5


def test_one_closed_accessible_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (400, 600), dtype=np.uint8)
    pictures = {}
    for caption in ("what it saw", '"><script>'):
        pictures[caption] = tmp_path / f"{len(pictures)}.png"
        imsave(pictures[caption], pixels, check_contrast=False)
    path = write_report(content(), tmp_path / "report", pictures)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.stat().st_size < 2_000_000
    assert page.tags.count("img") == 2
    assert page.tags.count("h1") == page.tags.count("title") - page.tags.count("svg") == 1
    assert len(page.drawings) == page.tags.count("svg") >= 2
    assert all({"title", "desc"} <= drawing for drawing in page.drawings)
    ids = [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for key, value in page.attributes:
        if key in ("aria-labelledby", "aria-describedby"):
            assert set(value.split()) <= set(ids)
        if key in ("href", "xlink:href"):
            assert value[1:] in ids
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    (policy,) = [value for key, value in page.attributes if key == "content" and "default-src" in value]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http://" not in names
    assert "https://" not in names
    assert "@import" not in text
    assert re.search(r"url\((?!#)", text) is None


def test_what_is_written_beside_the_page_is_the_report(tmp_path):
    report = content(HOSTILE["script"])
    write_report(report, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read == report
    jsonschema.validate(read, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)


def test_json_read_back_gives_the_same_bytes(tmp_path):
    report = content()
    pages = [
        write_report(each, tmp_path / name) for name, each in (("a", report), ("b", json.loads(json.dumps(report))))
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_reader_meets_the_verdict_first(tmp_path):
    report = content()
    text = write_report(report, tmp_path).read_text(encoding="utf-8")
    body = text[text.index("<body") :]
    places = [body.index("<h1"), body.index("<ol"), body.index("<h2"), body.index("<svg"), body.index("Who was judged")]
    assert places == sorted(places)
    page = Page(text)
    for sentence in report["findings"]:
        assert sentence in page.text
    assert not re.search(r"\b(unbiased|fair|certified)\b", page.text.lower())
    assert "not a medical device" in page.text


def test_a_report_without_groups_or_values_is_still_a_page(tmp_path):
    rows = scored("A").drop(columns="race").assign(label=1.0)
    page = Page(write_report(evaluate({"eye": rows}), tmp_path).read_text(encoding="utf-8"))
    assert "one class only" in page.text
    assert "nan" not in page.text.lower().split()


@pytest.mark.parametrize(
    "broken",
    [
        lambda r: [],
        lambda r: {},
        lambda r: {**r, "analyses": None},
        lambda r: {**r, "analyses": [1]},
        lambda r: {**r, "analyses": [{**r["analyses"][0], "estimates": None}]},
        lambda r: {**r, "analyses": [{**r["analyses"][0], "estimates": [{"metric": "auroc"}]}]},
        lambda r: {
            **r,
            "analyses": [{**r["analyses"][0], "gaps": [{**r["analyses"][0]["gaps"][0], "verdict": "fair"}]}],
        },
        lambda r: {**r, "analyses": [{**r["analyses"][0], "cohort": {}}]},
        lambda r: {**r, "margin": "wide"},
        lambda r: {**r, "findings": None},
        lambda r: {key: value for key, value in r.items() if key != "provenance"},
        lambda r: {
            **r,
            "analyses": [
                {**r["analyses"][0], "estimates": [{**row, "value": "high"} for row in r["analyses"][0]["estimates"]]}
            ],
        },
    ],
)
def test_what_is_no_report_is_answered_and_leaves_nothing(tmp_path, broken):
    with pytest.raises(UserError, match=r"give the report\.json that medssl evaluate wrote"):
        write_report(broken(content()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png"):
        write_report(content(), tmp_path / "out", {"seen": tmp_path / "none.png"})
    assert not (tmp_path / "out").exists()
