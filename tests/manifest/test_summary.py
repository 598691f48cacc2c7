"""What summary.json says: every number against a count made another way, and nobody in a small group is told of."""

import csv
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from medssl.errors import UserError
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.flow import fates
from medssl.manifest.people import COMPLEMENT, MINIMUM, RECORDED, SMALL, groups, hidden, merged, patients_found, wilson
from medssl.manifest.summary import BINS, MOST_ROWS, histogram, listed, summarise, write_summary


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (1, 335), (200, 20000)])
def test_the_interval_is_wilsons(hits, total):
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson(hits, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_has_no_interval():
    assert np.isnan(wilson(0, 0)).all()


sizes = st.dictionaries(st.sampled_from(["unknown", *"ABCDEF"]), st.integers(1, 40), min_size=1)


@settings(max_examples=300)
@given(sizes)
def test_what_is_hidden_cannot_be_worked_out_from_what_is_shown(sizes):
    reasons = hidden(sizes)
    shown = {name: size for name, size in sizes.items() if name not in reasons}
    assert all(size >= MINIMUM or name == "unknown" for name, size in shown.items())
    for name, why in reasons.items():
        assert (why == SMALL) == (sizes[name] < MINIMUM and name != "unknown")
    if not any(size < MINIMUM and name != "unknown" for name, size in sizes.items()):
        assert reasons == {}
    elif shown:  # the total is known: what is left of it must be of several groups and of enough people
        assert len(reasons) >= 2
        assert sum(sizes.values()) - sum(shown.values()) >= MINIMUM


@pytest.mark.parametrize(
    ("sizes", "gone"),
    [
        ({"F": 40, "M": 50, "unknown": 3}, {}),
        ({"F": 40, "M": 50, "O": 3}, {"O": SMALL, "F": COMPLEMENT}),
        ({"F": 40, "M": 50, "O": 3, "unknown": 8}, {"O": SMALL, "unknown": COMPLEMENT}),
        ({"F": 40, "M": 50, "O": 3, "unknown": 2}, {"O": SMALL, "unknown": COMPLEMENT, "F": COMPLEMENT}),
        ({"A": 5, "B": 5, "C": 90}, {"A": SMALL, "B": SMALL}),
        ({"A": 4, "B": 5, "C": 90, "D": 80}, {"A": SMALL, "B": SMALL, "D": COMPLEMENT}),
        ({"A": 9, "unknown": 300}, {"A": SMALL, "unknown": COMPLEMENT}),
    ],
)
def test_only_as_much_is_hidden_as_must_be(sizes, gone):
    assert hidden(sizes) == gone


def patients(race, left=()):
    table = pd.DataFrame({"race": race, "n_volumes": 1, "hurt": False})
    return table.assign(left=[n in left for n in range(len(race))])


def test_groups_stand_in_order_with_the_unknown_last():
    rows = groups(patients(["75+"] * 12 + ["<40"] * 11 + ["unknown"] * 2 + ["40-59"] * 10, left=[0, 1, 12]), "race")
    assert [row["group"] for row in rows] == ["<40", "40-59", "75+", "unknown"]
    assert [row["patients"] for row in rows] == [11, 10, 12, 2]
    assert [row["left"]["n"] for row in rows] == [1, 0, 2, 0]
    assert (rows[2]["left"]["share"], rows[2]["hidden"]) == (0.1667, "")


def test_a_hidden_group_holds_no_number_at_all():
    rows = groups(patients(["A"] * 3 + ["B"] * 20 + ["C"] * 30), "race")
    assert rows[:2] == [{"group": "A", "hidden": SMALL}, {"group": "B", "hidden": COMPLEMENT}]


def test_of_very_few_patients_not_even_the_groups_are_named():
    rows = groups(patients(["A"] * 7 + ["unknown"] * 2), "race")
    assert [row["group"] for row in rows] == [RECORDED, "unknown"]
    assert rows[0]["hidden"] == SMALL


def test_a_column_of_names_is_not_printed():
    names = pd.Series([f"Canary {n}" for n in range(60)] + ["A"] * 30 + ["unknown"] * 4)
    assert merged(names).value_counts().to_dict() == {"60 other groups": 60, "A": 30, "unknown": 4}
    few = pd.Series([f"group {n}" for n in range(20)] + ["unknown"])
    assert merged(few).equals(few)


def test_people_are_those_of_the_clinical_table(balls):
    cohort = read_cohort(balls / "cohort")
    content = summarise(cohort, {})
    with (balls / "archive" / "clinical.csv").open() as file:
        people = {row["who"]: row for row in csv.DictReader(file)}
    for attribute, column in ("sex", "sex"), ("race", "race"):
        (rows,) = (each["groups"] for each in content["people"]["attributes"] if each["attribute"] == attribute)
        expected = Counter(row[column] or "unknown" for row in people.values())
        assert {row["group"]: row["patients"] for row in rows if not row["hidden"]}.items() <= expected.items()
        assert {row["group"] for row in rows} == set(expected)
    ages = sorted(int(row["age"]) for row in people.values())
    assert content["people"]["age_years"]["median"] == np.median(ages)
    assert content["people"]["all"]["patients"] == len(people) == 32
    assert content["splits"] == [
        {
            "split": name,
            "patients": part["patient_pid"].nunique(),
            "volumes": len(part),
            "modalities": {"MR": len(part)},
        }
        for name, part in ((name, cohort.volumes[cohort.volumes["split"] == name]) for name in ("train", "val", "test"))
    ]
    (label,) = content["labels"]
    assert (label["positive"]["n"], label["patients"]) == (16, 32)
    (modality,) = content["modalities"]
    assert modality["shapes"] == [("20 x 24 x 16", len(cohort.volumes))]
    assert [(size["least"], size["median"], size["most"]) for size in modality["sizes"]] == [
        (1, 1, 1), (1.5, 1.5, 1.5), (24, 24, 24), (16, 16, 16)
    ]  # fmt: skip


def test_who_lost_a_series_is_told_apart_from_who_lost_everything(series, tmp_path):
    for patient in range(12):
        series(tmp_path / "a" / f"{patient}", f"P{patient:02d}", PatientSex="F")
    for patient in (3, 7):
        (tmp_path / "a" / f"{patient}" / "2.dcm").unlink()
    series(tmp_path / "a" / "second", "P03", PatientSex="F")
    (tmp_path / "a" / "copy.dcm").write_bytes((tmp_path / "a" / "5" / "0.dcm").read_bytes())
    index(tmp_path / "a", tmp_path / "c")
    cohort = read_cohort(tmp_path / "c")
    found = patients_found(cohort, fates(cohort)["patients"])
    assert (int(found["left"].sum()), int(found["hurt"].sum())) == (1, 2)  # a second copy is no loss
    (sex,) = summarise(cohort, {})["people"]["attributes"][0]["groups"]
    assert (sex["group"], sex["patients"], sex["left"]["n"], sex["hurt"]["n"]) == ("F", 12, 1, 2)
    reasons = {row["code"]: row for row in summarise(cohort, {})["reasons"]}
    assert reasons["MISSING_SLICE"] == {
        "code": "MISSING_SLICE", "meaning": reasons["MISSING_SLICE"]["meaning"], "by_design": False, "files": 10,
        "series": 2, "studies": 2, "patients": 1, "volumes_kept": 0,
    }  # fmt: skip


def test_a_histogram_is_logarithmic_and_counts_all():
    found = histogram([1, 10, 100, 100], 6)
    assert (found["least"], found["median"], found["most"], found["missing"]) == (1, 55, 100, 2)
    assert {place: n for place, n in enumerate(found["counts"]) if n} == {0: 1, BINS // 2: 1, BINS - 1: 2}
    same = histogram([0.0208331, 0.0208333], 2)
    assert same["counts"] == [0] * (BINS // 2) + [2] + [0] * (BINS // 2 - 1)
    assert histogram([], 3) == {"missing": 3, "least": None, "median": None, "most": None, "counts": []}


def test_a_picture_without_a_voxel_size_has_none(tmp_path):
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (30, 20)).astype(np.uint8)
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "a" / f"{number}.png")
    index(tmp_path / "a", tmp_path / "c", card=Card(name="x", modality="DX"))
    (modality,) = summarise(read_cohort(tmp_path / "c"), {})["modalities"]
    assert [size["missing"] for size in modality["sizes"]] == [2, 2, 0, 0]
    assert [size["most"] for size in modality["sizes"]] == [None, None, 30, 20]
    assert {"what": "body part", "counts": [("unknown", 2)]} in modality["words"]


def test_a_long_list_ends_in_what_is_left_of_it():
    rows = listed([word for n in range(40) for word in [f"w{n:02d}"] * (n + 1)])
    assert len(rows) == MOST_ROWS + 1
    assert rows[0] == ("w39", 40) and rows[-1] == ("20 others", 210)
    assert listed(["b", "", "b", "unknown", "a"]) == [("b", 2), ("a", 1), ("none", 1), ("unknown", 1)]


def test_a_label_of_few_is_counted_but_not_told(balls, tmp_path):
    cohort = read_cohort(balls / "cohort")
    rare = cohort.labels.assign(value=(cohort.labels.index < 3).astype(float))
    numbers = cohort.labels.assign(value=np.arange(len(cohort.labels)) / 7)
    for labels, binary, told in (rare, True, SMALL), (numbers, False, ""):
        content = summarise(type(cohort)(cohort.instances, cohort.volumes, cohort.patients, labels), {})
        (label,) = content["labels"]
        assert (label["binary"], label["positive"], label["hidden"]) == (binary, None, told)
        assert label["volumes"] + label["volumes_without"] == content["volumes"]


def test_equal_cohorts_give_equal_bytes(balls, tmp_path):
    card = balls / "archive" / "card.yaml"
    from medssl.manifest import read_card

    written = []
    for name in "ab":
        index(balls / "archive", tmp_path / name, card=read_card(card), key_file=balls / "cohort" / "phi" / "key")
        page = write_summary(tmp_path / name, thumbnails=2)
        written.append((page.read_bytes(), (tmp_path / name / "summary.json").read_bytes()))
    assert written[0] == written[1]
    assert page == tmp_path / "b" / "summary.html"
    assert written[0][0].count(b"data:image/png") == 2
    assert write_summary(tmp_path / "a", thumbnails=2).read_bytes() == written[0][0]


def test_without_pictures_no_file_of_the_archive_is_needed(scan, tmp_path):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c")
    (tmp_path / "a" / "one.nii.gz").unlink()
    page = write_summary(tmp_path / "c", thumbnails=0)
    assert "<img" not in page.read_text()
    content = json.loads((tmp_path / "c" / "summary.json").read_text(), parse_constant=pytest.fail)
    assert content["notes"][0].startswith("one patient only: all volumes are in the split t")


def test_a_folder_without_a_cohort_is_named(tmp_path):
    with pytest.raises(UserError, match="no cohort here"):
        write_summary(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cohort_in_which_nothing_can_be_used_has_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "letter.txt").write_text("x")
    index(tmp_path / "a", tmp_path / "c")
    text = write_summary(tmp_path / "c").read_text()
    assert "0 volumes (none) of 0 patients" in text and "NOT_AN_ARCHIVE_FILE" in text
