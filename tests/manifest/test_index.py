"""Indexing whole archives: every file accounted for, nothing identifiable outside phi/."""

import json
import shutil
from pathlib import Path

import jsonschema
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.manifest import Card, index, read_card, read_cohort, write_summary
from medssl.manifest.exchange import export_nnssl
from medssl.manifest.pseudonyms import pseudonym, read_key
from medssl.units import Work

ROOT = Path(__file__).parents[2]
TABLE = "who,sex,race,age,site,sick\nSecret-1,F,A,61,north,1\nSecret-2,,B,070Y,south,0\nSecret-3,M,,,north,\n"
CARD = {
    "name": "tiny", "modality": "MR", "table": "clinical.csv", "key": "patient_id", "patient": r"^(Secret-\d)",
    "columns": {"patient_id": "who", "sex": "sex", "race": "race", "age_years": "age", "site": "site"},
    "labels": {"sick": "column sick"}, "masks": "masks/{name}",
}  # fmt: skip


@pytest.fixture
def archive(scan, tmp_path):
    folder = tmp_path / "Canary-Name"
    for seed, name in enumerate(("Secret-1_a", "Secret-1_b", "Secret-2_a", "Secret-3_a")):
        scan(folder / f"{name}.nii.gz", seed)
    scan(folder / "masks" / "Secret-1_a.nii.gz", 9)
    scan(folder / "masks" / "lonely.nii.gz", 9)
    (folder / "Secret-2_bad.nii.gz").write_bytes((folder / "Secret-2_a.nii.gz").read_bytes()[:-60])
    (folder / "notes.txt").write_text("Canary-Text " * 20)
    (folder / "clinical.csv").write_text(TABLE)
    return folder


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_file_ends_in_a_volume_or_a_reason(archive, tmp_path):
    receipt = index(archive, tmp_path / "c", card=Card(**CARD))
    cohort = read_cohort(tmp_path / "c")
    assert receipt.volumes == 4
    assert receipt.files == len(cohort.instances) == 6
    assert receipt.files_left_out == {"GZIP_DAMAGED": 1, "NOT_AN_ARCHIVE_FILE": 1}
    assert receipt.masks == 1
    assert "1 label maps belong to no volume" in receipt.notes
    assert "3 volumes have no label map" in receipt.notes
    assert "4 volumes (4 MR) of 3 patients" in str(receipt)


def test_demographics_and_labels(archive, tmp_path):
    index(archive, tmp_path / "c", card=Card(**CARD))
    cohort = read_cohort(tmp_path / "c")
    people = cohort.patients.sort_values("n_volumes", ascending=False)
    assert people.iloc[0][["sex", "race", "age_band", "site"]].tolist() == ["F", "A", "60-74", "north"]
    assert sorted(cohort.patients["sex"]) == ["F", "M", "unknown"]
    assert sorted(cohort.patients["race"]) == ["A", "B", "unknown"]
    assert cohort.patients["age_years"].isna().sum() == 1
    assert sorted(cohort.labels["value"]) == [0.0, 1.0, 1.0]
    assert cohort.volumes.groupby("patient_pid")["split"].nunique().max() == 1


def test_the_same_archive_gives_the_same_bytes(archive, tmp_path):
    index(archive, tmp_path / "c", card=Card(**CARD))
    once = everything(tmp_path / "c")
    index(archive, tmp_path / "c", card=Card(**CARD))
    assert everything(tmp_path / "c") == once
    (tmp_path / "d" / "phi").mkdir(parents=True)
    index(archive, tmp_path / "d", card=Card(**CARD), key_file=tmp_path / "c" / "phi" / "key", work=Work(workers=2))
    assert everything(tmp_path / "d") == {k: v for k, v in once.items() if k.name != "key"}


def test_splits_and_ids_do_not_depend_on_the_key(archive, tmp_path):
    for name in "cd":
        index(archive, tmp_path / name, card=Card(**CARD))
    c, d = (read_cohort(tmp_path / name).volumes.set_index("volume_id") for name in "cd")
    assert c["split"].equals(d["split"])
    assert not set(c["patient_pid"]) & set(d["patient_pid"])


def test_nothing_identifiable_of_files_without_headers_leaves_phi(archive, tmp_path):
    index(archive, tmp_path / "c", card=Card(**CARD))
    shown = ""
    for path in (tmp_path / "c").iterdir():
        if path.suffix == ".parquet":
            shown += pd.read_parquet(path).to_csv()
        elif path.is_file():
            shown += path.read_text()
    assert len(shown) > 500
    for canary in ("Secret", "Canary", "nii", str(tmp_path)):
        assert canary not in shown


def test_what_is_written_matches_the_schemas(archive, tmp_path):
    index(archive, tmp_path / "c", card=Card(**CARD))
    for name in ("instances", "volumes", "patients", "labels"):
        schema = json.loads((ROOT / "data_manifests" / f"{name}.schema.json").read_text())
        rows = json.loads(pd.read_parquet(tmp_path / "c" / f"{name}.parquet").to_json(orient="records"))
        assert rows
        for row in rows:
            jsonschema.validate(row, schema, cls=jsonschema.Draft202012Validator)
        rows[0]["split" if "split" in rows[0] else "size" if "size" in rows[0] else "value"] = "no such thing"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(rows[0], schema, cls=jsonschema.Draft202012Validator)


def test_rows_about_nothing_are_told_or_refused(archive, tmp_path):
    with (archive / "clinical.csv").open("a") as file:
        file.write("\n")
        file.write("".join(f"Secret-9{n},F,A,1,north,1\n" for n in range(5)) + ",F,A,1,north,1\n")
    receipt = index(archive, tmp_path / "c", card=Card(**CARD))
    assert receipt.notes[0] == "5 rows of the table are about nothing in the archive (first: row 6)"
    assert receipt.notes[1] == "1 rows of the table have a blank patient_id"
    key = read_key(tmp_path / "c" / "phi" / "key")
    expected = [pseudonym(key, "patient", f"Secret-9{n}") for n in range(3)]
    assert json.loads((tmp_path / "c" / "receipt.json").read_text())["table_rows_without_image"] == {
        "count": 5, "first": expected}  # fmt: skip
    with pytest.raises(UserError, match="row 6 is about nothing") as error:
        index(archive, tmp_path / "d", card=Card(**CARD), strict_table=True)
    assert "Secret-9" not in str(error.value)
    assert not list((tmp_path / "d").glob("*.parquet"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "the card's table is not there"),
        ("who,sex,race,age,site\nSecret-1,F,A,1,x\n", "the table has no column 'sick'"),
        ("who,race,age,site,sick\n", r"no column 'sex' \(for sex\)"),
        (TABLE + "Secret-1,M,,,,\n", "rows 2 and 5 have the same patient_id"),
        (TABLE.replace("1\n", "maybe\n", 1), "row 2: label 'sick': column 'sick' does not hold a number"),
        (TABLE.replace("1\n", "inf\n", 1), "does not hold a number"),
        (TABLE + "Secret-4,M\n", "row 5 has 2 cells, the heading has 6"),
        (TABLE.replace("race", "sex", 1), "two columns are called 'sex'"),
        (TABLE.replace("north", "n\xf6rd"), "not UTF-8 text"),
        ("", "no column 'who'"),
    ],
)
def test_a_table_that_cannot_be_used(archive, tmp_path, table, message):
    (archive / "clinical.csv").unlink()
    if table is not None:
        (archive / "clinical.csv").write_text(table, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        index(archive, tmp_path / "c", card=Card(**CARD))
    assert not (tmp_path / "c" / "volumes.parquet").exists()


def test_a_row_about_a_damaged_file_is_not_about_nothing(archive, tmp_path):
    names = ("Secret-2_bad", "Secret-2_a", "none")
    (archive / "clinical.csv").write_text("\n".join(["f,who", *(f"{n}.nii.gz,X{n}" for n in names)]) + "\n")
    card = Card(name="x", table="clinical.csv", key="file", columns={"file": "f", "patient_id": "who"})
    receipt = index(archive, tmp_path / "c", card=card)
    assert receipt.table_rows_without_image.count == 1
    assert "1 rows of the table are about nothing in the archive (first: row 4)" in receipt.notes
    assert receipt.volumes_without_table_row.count == receipt.volumes - 1
    assert f"{receipt.volumes - 1} volumes have no row in the table" in receipt.notes


def test_attributes_of_the_table_are_words_for_everybody(archive, tmp_path):
    (archive / "clinical.csv").write_text("who,smoker,race\nSecret-1,yes, Black \nSecret-2,,Unknown\n")
    card = Card(**{**CARD, "columns": {"patient_id": "who", "smoker": "smoker", "race": "race"}, "labels": {}})
    index(archive, tmp_path / "c", card=card)
    people = read_cohort(tmp_path / "c").patients
    assert sorted(people["smoker"]) == ["unknown", "unknown", "yes"]
    assert sorted(people["race"]) == ["Black", "unknown", "unknown"]
    assert sorted(people["race_source"]) == ["none", "none", "tiny: race"]
    text = people.select_dtypes(exclude="number")
    assert not text.isna().to_numpy().any() and not (text == "").to_numpy().any()


def test_ages_above_ninety_are_capped(archive, tmp_path):
    (archive / "clinical.csv").write_text(TABLE.replace("61", "97"))
    index(archive, tmp_path / "c", card=Card(**CARD))
    assert read_cohort(tmp_path / "c").patients["age_years"].max() == 90


def test_the_receipt_says_what_made_it(archive, tmp_path):
    index(archive, tmp_path / "c", card=Card(**CARD))
    index(archive, tmp_path / "d", card=Card(**CARD | {"split_seed": "2"}), key_file=tmp_path / "c" / "phi" / "key")
    one, two = (json.loads((tmp_path / name / "receipt.json").read_text()) for name in "cd")
    assert one["versions"].keys() == {"medssl", "nibabel", "numpy", "pyarrow", "pydicom"}
    assert one["card"] != two["card"] and one["key"] == two["key"]
    assert (one["files"], one["patients"], one["studies"], one["volumes"]) == (6, 3, 0, 4)


def test_one_patient_only_and_copies(scan, tmp_path):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    (tmp_path / "a" / "one_again.nii.gz").write_bytes((tmp_path / "a" / "one.nii.gz").read_bytes())
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", patient="(one)"))
    assert receipt.volumes == 1
    assert receipt.series_left_out == {"DUP_INSTANCE": 1}
    assert list(receipt.splits.values()) == [1]
    assert receipt.notes[0].startswith("one patient only")
    scan(tmp_path / "a" / "two.nii.gz", 2)
    later = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", patient="(one|two)"))
    assert later.splits.keys() >= receipt.splits.keys()  # a newcomer moves nobody


def test_no_archive_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        index(tmp_path / "none", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        index(tmp_path / "empty", tmp_path / "c")
    with pytest.raises(UserError, match=r"no file matches 'x/\*'"):
        index(tmp_path / "empty", tmp_path / "c", card=Card(name="x", files="x/*"))
    with pytest.raises(UserError, match=r"give the folder that holds the images$") as error:
        index(tmp_path / "empty", tmp_path / "c")
    assert str(tmp_path / "empty") in str(error.value)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file; give a folder for the cohort"):
        index(tmp_path / "empty", tmp_path / "file")
    with pytest.raises(UserError, match="is the archive itself"):
        index(tmp_path / "empty", tmp_path / "empty")
    (tmp_path / "empty" / "t.csv").write_text("a\n")
    with pytest.raises(UserError, match="holds a table or label maps but no images"):
        index(tmp_path / "empty", tmp_path / "c", card=Card(name="x", table="t.csv", columns={"patient_id": "a"}))
    assert not (tmp_path / "c").exists()
    with pytest.raises(UserError, match="no cohort here"):
        read_cohort(tmp_path / "c")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "volumes", "people", "masks"), [("nih_cxr1000", 807, 543, 0), ("msd_hippocampus", 202, 202, 201)]
)
def test_real_sets(real_data, tmp_path, name, volumes, people, masks):
    receipt = index(real_data / name, tmp_path / "c", card=read_card(ROOT / "data_manifests" / f"{name}.yaml"))
    cohort = read_cohort(tmp_path / "c")
    assert (receipt.volumes, receipt.patients, receipt.masks) == (volumes, people, masks)
    kept = cohort.volumes[cohort.volumes["status"] != "excluded"]
    assert kept.groupby("patient_pid")["split"].nunique().max() == 1
    assert set(kept["split"]) == {"train", "val", "test"}


@pytest.mark.real
def test_what_does_not_fit_together_in_a_real_set_is_named(real_data, tmp_path):
    card = read_card(ROOT / "data_manifests" / "msd_hippocampus.yaml")
    receipt = index(real_data / "msd_hippocampus", tmp_path / "c", card=card)
    assert (receipt.volumes_without_label_map.count, receipt.label_maps_without_image.count) == (1, 1)
    sources = pd.read_parquet(tmp_path / "c" / "phi" / "sources.parquet").set_index("volume_id")["path"]
    files = pd.read_parquet(tmp_path / "c" / "phi" / "files.parquet").set_index("instance_pid")["path"]
    assert sources[receipt.volumes_without_label_map.first[0]] == "images/hippocampus_118.nii.gz"
    assert files[receipt.label_maps_without_image.first[0]] == "labels/hippocampus_281.nii.gz"


@pytest.mark.real
def test_every_series_of_the_real_dicom_folder_is_accounted_for(real_data, tmp_path):
    card = read_card(ROOT / "data_manifests" / "archive_dicom.yaml")
    receipt = index(real_data / "archive_dicom", tmp_path / "c", card=card)
    cohort = read_cohort(tmp_path / "c")
    sources = pd.read_parquet(tmp_path / "c" / "phi" / "sources.parquet")
    there = {
        p.relative_to(real_data / "archive_dicom").as_posix() for p in (real_data / "archive_dicom").rglob("*.dcm")
    }
    files = pd.read_parquet(tmp_path / "c" / "phi" / "files.parquet")
    assert there == set(files["path"]) == set(sources["path"])
    assert len(sources) == len(cohort.instances) == receipt.files == 229
    assert (receipt.volumes, receipt.patients, receipt.by_modality) == (11, 3, {"CT": 1, "MR": 10})
    assert cohort.volumes.groupby("series_pid").size().sort_values().tolist() == [1] * 8 + [3]
    assert set(cohort.volumes.query("split_by == 'b_value'")["n_sources"]) == {19}


def test_a_cohort_keeps_its_key(scan, tmp_path):
    """Without the key that it was made with, all pseudonyms would be new, and every store and report of it orphaned."""
    scan(tmp_path / "a" / "v.nii.gz", 1)
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(0o600)
    index(tmp_path / "a", tmp_path / "c", key_file=tmp_path / "key")
    before = (tmp_path / "c" / "volumes.parquet").read_bytes()
    with pytest.raises(UserError, match=r"not the key that the pseudonyms .* --key-file"):
        index(tmp_path / "a", tmp_path / "c")
    assert not (tmp_path / "c" / "phi" / "key").exists()
    (tmp_path / "other").write_bytes(bytes(31) + b"x")
    with pytest.raises(UserError, match="other: not the key"):
        index(tmp_path / "a", tmp_path / "c", key_file=tmp_path / "other")
    index(tmp_path / "a", tmp_path / "c", key_file=tmp_path / "key")
    assert (tmp_path / "c" / "volumes.parquet").read_bytes() == before


def test_a_cohort_is_passed_on_without_what_identifies(scan, tmp_path):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c")
    shutil.copytree(tmp_path / "c", tmp_path / "passed", ignore=shutil.ignore_patterns("phi"))
    assert len(read_cohort(tmp_path / "passed").volumes) == 1
    assert "<img" not in write_summary(tmp_path / "passed").read_text()
    with pytest.raises(UserError, match="ask who made the cohort"):
        export_nnssl(tmp_path / "passed", tmp_path / "x", name="x")
