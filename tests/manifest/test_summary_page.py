"""summary.html: one closed page, whatever tables hold; nothing in it names a patient."""

import base64
import csv
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from medssl.cli import main
from medssl.manifest import Card, index, read_card, read_cohort
from medssl.manifest.flow import Level
from medssl.manifest.summary import summarise, write_summary
from medssl.manifest.summary_page import diagram, findings, percent, render, tame
from medssl.manifest.summary_tables import as_csv
from medssl.manifest.tables import checksum
from medssl.manifest.thumbnails import Thumbnail

VOID = {"meta", "img", "br", "path", "rect", "circle"}
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "comment": "--><b>bold</b><!--",
    "style": "</style></title><style>*{display:none}",
    "template": "{{ 7 * 7 }}{% raw %}",
    "direction": "a\u202eb\u2066c\u200fd",
    "control": "a\x07b\x1bc",
    "lines": "a\nb\r\nc\td\u2028e",
    "script of another kind": "日本語 العربية ไทย",
    "long": "x" * 5000,
}


class Page(HTMLParser):
    """Checks that tags balance while it collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def of(self, *names):
        return [value for key, value in self.attributes if key in names]


@pytest.fixture
def named(balls, tmp_path):
    """Writes the summary of a cohort in which everything that a table may name is called `name`."""

    def write(name):
        folder = tmp_path / "cohort"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(balls / "cohort", folder)
        changes = {
            "volumes": ["scanner", "body_part", "view_position"],
            "patients": ["race", "site"],
            "labels": ["name"],
        }
        for table, columns in changes.items():
            rows = pd.read_parquet(folder / f"{table}.parquet")
            rows.assign(**dict.fromkeys(columns, name)).to_parquet(folder / f"{table}.parquet")
        receipt = json.loads((folder / "receipt.json").read_text())
        receipt["tables"] = {path: checksum(folder / path) for path in receipt["tables"]}
        (folder / "receipt.json").write_text(json.dumps(receipt))
        return write_summary(folder, thumbnails=1)

    return write


def test_a_name_is_only_text(named):
    harmless = Page(named("A").read_text(encoding="utf-8"))
    for name in HOSTILE.values():
        path = named(name)
        page = Page(path.read_text(encoding="utf-8"))
        assert sorted(page.tags) == sorted(harmless.tags)
        assert sorted(key for key, _ in page.attributes) == sorted(key for key, _ in harmless.attributes)
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\x00-\x08\x0b-\x1f\x7f]", page.text)
        assert "x" * 61 not in page.text
        assert path.stat().st_size < 200_000
    assert page.text.count("x" * 59 + "…") >= 5


def test_one_closed_page_that_reads_without_eyes(named):
    text = named("A").read_text(encoding="utf-8")
    page = Page(text)
    (policy,) = [value for value in page.of("content") if "default-src" in value]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not {"script", "iframe", "object", "embed", "form", "base", "link"} & set(page.tags)
    ids = page.of("id")
    assert len(ids) == len(set(ids))
    for value in page.of("src", "href"):
        assert value.startswith("data:image/png;base64,") or value[1:] in ids
    for value in page.of("aria-labelledby"):
        assert set(value.split()) <= set(ids)
    assert "http" not in text.replace("http-equiv", "")
    assert re.search(r"url\((?!#)", text) is None
    drawings = re.findall(r"<svg[^>]*>", text)
    assert len(drawings) > 10
    assert all('aria-hidden="true"' in each or 'role="img"' in each for each in drawings)
    assert page.tags.count("img") == len([value for value in page.of("alt") if value])
    assert "Files: " in page.text and "patients" in page.text


def test_the_drawing_says_the_numbers_in_words():
    files = Level(name="files", entered=12, stayed=9, left={"A": 2, "B": 1})
    drawn = diagram([vars(files), vars(Level(name="series", entered=0, stayed=0, left={}))])
    assert drawn["told"] == "Files: 12 found, 9 stay, 3 leave (2 A, 1 B). Series: 0 found, 0 stay, 0 leave."
    assert [box["filled"] for box in drawn["boxes"]] == [drawn["bar"] * 9 / 12, 0]


def test_many_reasons_are_summed_up_and_boxes_do_not_overlap():
    left = {f"R{n:02d}": 30 - n for n in range(20)}
    levels = [vars(Level(name=name, entered=999, stayed=999 - sum(left.values()), left=left)) for name in "abcd"]
    boxes = diagram(levels)["boxes"]
    for box in boxes:
        assert sum(n for _, _, n in box["lines"]) == box["gone"] == sum(left.values())
        assert box["lines"][-1][1] == "14 other reasons"
        assert all(box["top"] < y < box["top"] + box["height"] for y, _, _ in box["lines"])
    for above, below in pairwise(boxes):
        assert above["top"] + above["height"] < below["top"]


def test_the_first_sentences_tell_what_was_lost_and_what_is_not_recorded(balls):
    content = summarise(read_cohort(balls / "cohort"), {"notes": ["3 rows are about nothing"]})
    sentences = findings(content)
    assert sentences[0].startswith("42 volumes (42 MR) of 32 patients can be used, from 42 files")
    assert sentences[1].startswith("Of 32 patients 0 are left out wholly (0 %, 95 % interval 0 % to 11 %)")
    assert sentences[2] == "No file left because something is wrong with it."
    assert "ethnicity of all patients" in sentences[3] and "race" not in sentences[3]
    assert sentences[-1] == "3 rows are about nothing."


def test_a_picture_that_could_not_be_made_is_its_reason(balls):
    content = summarise(read_cohort(balls / "cohort"), {})
    lost = Thumbnail(
        volume_id="abcdefghij", modality="MR", role="t2w", scanner="<b>", shape=(1, 2, 3), reason="TIMEOUT"
    )
    text = render(content, [lost])
    assert "TIMEOUT" in text and "took longer than it may" in text and "abcdefgh" in text and "1 x 2 x 3" in text
    assert "<img" not in text and "<b>" not in text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.003, "0.3 %"), (0.5, "50 %"), (0.997, "99.7 %"), (1, "100 %")]
)
def test_shares_are_never_rounded_to_nothing_or_all(share, text):
    assert percent(share) == text


def test_a_label_is_one_short_clean_line():
    assert tame("a\u202eb\nc" + "d" * 100) == "abc" + "d" * 56 + "…"


CANARIES = {
    "PatientName": "Canary^Name", "InstitutionName": "Canary Hospital", "SeriesDescription": "canary words",
    "StudyDescription": "canary words", "ProtocolName": "canary words", "BodyPartExamined": "CANARYPART",
    "ViewPosition": "CANARYVIEW", "StationName": "CANARYSTATION", "EthnicGroup": "canary",
    "OperatorsName": "Canary^Operator", "PatientComments": "canary", "AccessionNumber": "CANARY1",
    "PatientBirthDate": "19210304", "StudyDate": "20240506", "PatientSex": "F", "PatientAge": "103Y",
}  # fmt: skip


def test_nothing_on_the_page_names_a_patient(series, tmp_path):
    import pydicom

    archive = tmp_path / "Canary-Folder"
    for number in range(11):
        series(archive / f"canary_{number}", f"Canary-{number}", **CANARIES)
    (archive / "canary_1" / "3.dcm").unlink()
    (archive / "canary_letter.txt").write_text("Canary")
    (archive / "canary_2" / "0.dcm").write_bytes((archive / "canary_2" / "1.dcm").read_bytes()[:-1500])
    (archive / "canary.csv").write_text("id,sex,site\n" + "".join(f"Canary-{n},F,north\n" for n in range(14)))
    card = Card(name="canary", table="canary.csv", columns={"patient_id": "id", "sex": "sex", "site": "site"})
    index(archive, tmp_path / "c", card=card)
    (archive / "canary_3" / "2.dcm").write_bytes(b"Canary" * 99)  # a source that breaks after the index was made
    (archive / "canary_3" / "3.dcm").unlink()
    path = write_summary(tmp_path / "c", thumbnails=24)
    text = path.read_text(encoding="utf-8") + (tmp_path / "c" / "summary.json").read_text(encoding="utf-8")
    text += "".join(each.read_text(encoding="utf-8") for each in (tmp_path / "c" / "summary").iterdir())
    pictures = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", text)]
    data = pydicom.dcmread(archive / "canary_0" / "0.dcm")
    words = ["canary", "19210304", "20240506", "1921", "103", ".dcm", tmp_path.name, str(data.StudyInstanceUID)]
    words += [str(data.SeriesInstanceUID), str(data.SOPInstanceUID)]
    seen = re.sub(r"base64,[^\"]+", "", text).lower()
    assert [word for word in words if word.lower() in seen] == []
    assert "MISSING_SLICE" in text and "SOURCE_MISSING" in text and len(pictures) >= 8
    assert not any(b"tEXt" in each or b"canary" in each.lower() for each in pictures)
    for pid in pd.read_parquet(tmp_path / "c" / "patients.parquet")["patient_pid"]:
        assert pid not in text


def test_the_command_writes_it(balls, tmp_path, capsys):
    shutil.copytree(balls / "cohort", tmp_path / "c")
    with pytest.raises(SystemExit) as left:
        main(["summary", str(tmp_path / "c"), "--no-thumbnails"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"summary in {tmp_path / 'c' / 'summary.html'}\n"
    assert "data:image" not in (tmp_path / "c" / "summary.html").read_text()


def test_the_tables_hold_the_same_numbers_and_no_formula(balls, named, tmp_path):
    name = '=HYPERLINK("http://x","y")'
    folder = named(name).parent
    content = json.loads((folder / "summary.json").read_text())
    tables = {}
    for path in (folder / "summary").iterdir():
        with path.open(encoding="utf-8", newline="") as file:
            tables[path.stem] = list(csv.DictReader(file))
        assert all(line.startswith('"') for line in path.read_text().splitlines())
    assert {row["scanner"] for row in tables["scanners"]} == {"'" + name}
    assert {row["group"] for row in tables["people"] if row["attribute"] == "race"} == {"'" + name}
    everybody = tables["people"][0]
    assert everybody["group"] == "all patients"
    assert everybody["left_high"] == str(content["people"]["all"]["left"]["high"])
    assert [(row["level"], row["entered"]) for row in tables["flow"]] == [
        (level["name"], str(level["entered"])) for level in content["flow"]
    ]
    assert tables["reasons"] == []


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1", "'=1"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("\ta", "'\ta"), ("a=", "a="), (-3, "-3"), (None, "")],
)
def test_only_text_that_would_be_a_formula_gets_an_apostrophe(cell, written):
    assert as_csv([{"a": cell}]) == f'"a"\n"{written}"\n'


def test_real_archives_have_pages(real_data, tmp_path):
    cards = Path(__file__).parents[2] / "data_manifests"
    for name, volumes in ("archive_dicom", 11), ("nih_cxr1000", 807):
        index(real_data / name, tmp_path / name, card=read_card(cards / f"{name}.yaml"))
        text = write_summary(tmp_path / name).read_text(encoding="utf-8")
        Page(text)
        assert f"{volumes} volumes" in text
        assert text.count("data:image/png") == min(volumes, 24)
        assert "UNREADABLE" not in text
