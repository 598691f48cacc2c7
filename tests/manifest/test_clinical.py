"""Clinical tables beside a card, and tables in the forms that hospitals export."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.errors import UserError
from medssl.manifest import Card, index, read_card, read_cohort
from medssl.manifest.clinical import read_clinical, with_table
from medssl.manifest.facts import read_facts
from medssl.manifest.labels import meaning, read_rule
from medssl.manifest.sheets import read_cells
from medssl.manifest.splits import official_splits, within

CARDS = Path(__file__).parents[2] / "data_manifests"
TABLE = "patient_id,sex,race,age_years,site,label:sick,comment\np1,F,Black,61,north,1,Canary\np2,M,,,south,0,Canary\n"


@pytest.fixture
def archive(scan, tmp_path):
    for seed, name in enumerate(("p1_a", "p1_b", "p2_a")):
        scan(tmp_path / "a" / f"{name}.nii.gz", seed)
    return tmp_path / "a"


def test_one_table_needs_no_card(archive, tmp_path):
    (tmp_path / "clinical.csv").write_text(TABLE)
    card = with_table(Card(name="archive", patient=r"^(p\d)"), tmp_path / "clinical.csv")
    index(archive, tmp_path / "c", card=card)
    cohort = read_cohort(tmp_path / "c")
    people = cohort.patients.sort_values("site")
    assert people[["sex", "race", "site", "race_source"]].to_numpy().tolist() == [
        ["F", "Black", "north", "archive: race"], ["M", "unknown", "south", "none"]]  # fmt: skip
    assert sorted(zip(cohort.labels["name"], cohort.labels["value"], strict=True)) == [
        ("sick", 0),
        ("sick", 1),
        ("sick", 1),
    ]
    assert set(cohort.labels["source"]) == {"archive: label:sick"}
    assert "comment" not in people and "Canary" not in people.to_csv()


def test_a_table_inside_the_archive_is_no_file_of_it(archive, tmp_path):
    (archive / "t.csv").write_text(TABLE)
    receipt = index(archive, tmp_path / "c", card=with_table(Card(name="x", patient=r"^(p\d)"), archive / "t.csv"))
    assert receipt.files == 3 and not receipt.files_left_out


def test_a_table_beside_that_of_a_card(archive, tmp_path):
    (archive / "own.csv").write_text("who,grade\np1,2\np2,1\n")
    (tmp_path / "more.csv").write_text(TABLE)
    card = Card(
        name="x", patient=r"^(p\d)", table="own.csv", columns={"patient_id": "who"}, labels={"grade": "column grade"}
    )
    index(archive, tmp_path / "c", card=with_table(card, tmp_path / "more.csv"))
    cohort = read_cohort(tmp_path / "c")
    assert sorted(cohort.patients["race"]) == ["Black", "unknown"] and set(cohort.labels["name"]) == {"grade", "sick"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no such file"),
        ("id,sex\n1,F\n", "no column file, series_uid, study_uid or patient_id.*it has: id, sex"),
        ("patient_id,mood\n1,F\n", "nothing but patient_id"),
        ("patient_id,site\n1,F\n", "column 'site' is also in the card x"),
    ],
)
def test_a_clinical_table_that_cannot_be_used(tmp_path, table, message):
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    card = Card(name="x", table="own.csv", columns={"patient_id": "who", "site": "where"})
    with pytest.raises(UserError, match=message):
        with_table(card, tmp_path / "t.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("packed", [False, True])
def test_tables_with_any_mark_packed_or_not(tmp_path, mark, packed):
    content = f'﻿who{mark}note\r\n012{mark}"a{mark}b"\r\n\r\nNA{mark} x \r\n'.encode()
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    columns, rows = read_cells(path)
    assert columns == ["who", "note"]
    assert rows == {2: {"who": "012", "note": f"a{mark}b"}, 4: {"who": "NA", "note": "x"}}


@given(
    st.dictionaries(st.text("abc01.", min_size=1), st.text("xy", min_size=1), min_size=1),
    st.text("abcd012.-", min_size=1),
)
def test_a_code_is_listed_or_refused(codes, cell):
    try:
        assert meaning("race", cell, codes) in codes.values()
    except UserError:
        assert cell not in codes


def test_codes_are_words_numbers_or_beginnings():
    codes = {"1": "Black", "White*": "White", "-1": ""}
    assert [meaning("r", cell, codes) for cell in ("1", "1.0", "White, non-Hispanic", "-1.0", "")] == [
        "Black", "Black", "White", "", ""]  # fmt: skip
    with pytest.raises(UserError, match=r"values.r does not list \(1, White\*, -1\)"):
        meaning("r", "Not White", codes)


def test_rules_over_several_rows():
    columns = ["ClinSig", "grade"]
    rows = {"ClinSig": "FALSE\nTRUE", "grade": "2\n2.0"}
    assert read_rule("x", "ClinSig equals TRUE", columns)(rows) == 1
    assert read_rule("x", "ClinSig equals TRU", columns)(rows) == 0
    assert read_rule("x", "column grade", columns)(rows) == 2
    with pytest.raises(UserError, match="'grade' differs between rows"):
        read_rule("x", "column grade", columns)({"grade": "1\n2"})


def test_official_splits_are_kept_and_their_validation_part_is_drawn():
    assert official_splits([("a", "train"), ("a", ""), ("b", ""), ("a", "train")]) == {"a": "train"}
    with pytest.raises(UserError, match="1 patients are in two splits"):
        official_splits([("a", "train"), ("a", "test")])
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    drawn = pd.Series([within(str(n), "train+val", "0", fractions) for n in range(2000)]).value_counts(normalize=True)
    assert set(drawn.index) == {"train", "val"} and drawn["val"] == pytest.approx(0.25, abs=0.03)
    assert within("a", "test", "0", fractions) == within("a", "test", "0", {"train": 1.0}) == "test"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"path": "("}, "path '\\(' is not a regular expression"),
        ({"path": "a(b)"}, "has no named group"),
        ({"facts": "Info.cfg"}, "is not a place beside the image"),
        ({"facts": "{stem}.cfg"}, "is not a place beside the image"),
        ({"values": {"race": {}}}, "values.race: neither a column nor a label"),
        ({"schemes": {"sex": "x"}}, "schemes.sex: only race and ethnicity"),
        ({"split_lists": {"dev": "d.txt"}}, "split_lists.dev: is not train"),
        ({"split_lists": {"val": "/d.txt"}}, "split_lists '/d.txt' leaves the archive"),
        ({"joins": {"../x.csv": "a"}}, "joins '../x.csv' leaves the archive"),
        ({"mask_role": "t1"}, "mask_role 't1' is not one of t2w, adc, hbv"),
    ],
)
def test_cards_that_cannot_work(facts, message):
    with pytest.raises(UserError, match=f"card x: .*{message}"):
        Card(name="x", **facts)


def test_a_role_that_nothing_knows_is_refused(archive, tmp_path):
    with pytest.raises(UserError, match="role: not one of t2w, adc, hbv"):
        index(archive, tmp_path / "c", card=Card(name="x", path=r"(?P<patient_id>p\d)_(?P<role>\w)\.nii\.gz"))


def test_words_for_sex_that_are_not_understood_are_counted(archive, tmp_path):
    (tmp_path / "t.csv").write_text("patient_id,sex\np1,W\np2,f\n")
    receipt = index(archive, tmp_path / "c", card=with_table(Card(name="x", patient=r"^(p\d)"), tmp_path / "t.csv"))
    assert "1 cells of sex are neither M, F nor O; they count as unknown" in receipt.notes
    assert sorted(read_cohort(tmp_path / "c").patients["sex"]) == ["F", "unknown"]


@pytest.mark.real
def test_the_real_marksheet_of_picai_has_the_cases_that_its_makers_count(real_data, tmp_path):
    folder = tmp_path / "picai_labels" / "clinical_information"
    folder.mkdir(parents=True)
    shutil.copy(real_data / "prostatex_labels" / "picai_marksheet.csv", folder / "marksheet.csv")
    table = read_clinical(read_card(CARDS / "picai.yaml"), tmp_path)
    told = [{name: rule(row) for name, rule in table.labels.items()} for row in table.rows.values()]
    assert len(told) == 1500 and sum(labels["cspca"] for labels in told) == 425
    assert all((labels["isup"] >= 2) == labels["cspca"] for labels in told)
    assert len({row["study_id"] for row in table.rows.values()}) == 1500 and not table.heard


def test_facts_are_scalars_and_short_vectors_and_never_objects(tmp_path):
    np.savez(tmp_path / "a.npz", race=1, name="x", steps=np.array([1, 0]), image=np.zeros((300, 300)))
    assert read_facts(tmp_path / "a.npz") == {"race": "1", "name": "x", "steps.0": "1", "steps.1": "0"}
    np.savez(tmp_path / "b.npz", race=np.array({"a": 1}, dtype=object))
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    for name in "bc":
        with pytest.raises(UserError, match="the facts of an NPZ cannot be read"):
            read_facts(tmp_path / f"{name}.npz")
    (tmp_path / "Info.cfg").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"no 'Info\.cfg' beside an image"):
        read_facts(tmp_path / "Info.cfg")


def test_a_table_in_an_archive_given_by_its_relative_path_is_no_image(scan, tmp_path, monkeypatch):
    scan(tmp_path / "a" / "p1.nii.gz", 1)
    (tmp_path / "a" / "t.csv").write_text("patient_id,sex\np1,F\n")
    monkeypatch.chdir(tmp_path)
    card = with_table(Card(name="x", patient=r"^(p\d)"), "a/t.csv")
    assert index("a", "c", card=card).files_left_out == {}
