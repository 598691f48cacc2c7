"""Indexing whole archives: every file accounted for, nothing identifiable outside phi/."""

import json
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.manifest import Card, index, read_card, read_cohort
from medssl.manifest.tables import write_table

ROOT = Path(__file__).parents[2]
TABLE = "who,sex,race,age,site,sick\nSecret-1,F,A,61,north,1\nSecret-2,,B,070Y,south,0\nSecret-3,M,,,north,\n"
CARD = {
    "name": "tiny", "modality": "MR", "table": "clinical.csv", "key": "patient_id", "patient": r"^(Secret-\d)",
    "columns": {"patient_id": "who", "sex": "sex", "race": "race", "age_years": "age", "site": "site"},
    "labels": {"sick": "column sick"}, "masks": "masks/{name}",
}  # fmt: skip


def scan(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 99, (4, 5, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "Canary-Name"
    for seed, name in enumerate(("Secret-1_a", "Secret-1_b", "Secret-2_a", "Secret-3_a")):
        scan(folder / f"{name}.nii.gz", seed)
    scan(folder / "masks" / "Secret-1_a.nii.gz", 9)
    scan(folder / "masks" / "lonely.nii.gz", 9)
    (folder / "Secret-2_bad.nii.gz").write_bytes((folder / "Secret-2_a.nii.gz").read_bytes()[:60])
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
    assert receipt.files_left_out == {"GZIP_DAMAGED": 1, "NOT_AN_ARCHIVE_FILE": 1} or set(receipt.files_left_out) == {
        "UNREADABLE", "NOT_AN_ARCHIVE_FILE"}  # fmt: skip
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
    index(archive, tmp_path / "d", card=Card(**CARD), key_file=tmp_path / "c" / "phi" / "key", workers=2)
    assert everything(tmp_path / "d") == {k: v for k, v in once.items() if k.name != "key"}


def test_splits_and_ids_do_not_depend_on_the_key(archive, tmp_path):
    for name in "cd":
        index(archive, tmp_path / name, card=Card(**CARD))
    c, d = (read_cohort(tmp_path / name).volumes.set_index("volume_id") for name in "cd")
    assert c["split"].equals(d["split"])
    assert not set(c["patient_pid"]) & set(d["patient_pid"])


def test_nothing_identifiable_leaves_phi(archive, tmp_path):
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
        file.write("Secret-9,F,A,1,north,1\n")
    receipt = index(archive, tmp_path / "c", card=Card(**CARD))
    assert receipt.notes[0] == "1 rows of the table are about nothing in the archive (first: row 5)"
    with pytest.raises(UserError, match="row 5 is about nothing") as error:
        index(archive, tmp_path / "d", card=Card(**CARD), strict_table=True)
    assert "Secret-9" not in str(error.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "the card's table is not there"),
        ("who,sex,race,age,site\nSecret-1,F,A,1,x\n", "the table has no column 'sick'"),
        ("who,race,age,site,sick\n", r"no column 'sex' \(for sex\)"),
        (TABLE + "Secret-1,M,,,,\n", "rows 2 and 5 have the same patient_id"),
        (TABLE.replace("1\n", "maybe\n", 1), "holds 'maybe', not a number"),
    ],
)
def test_a_table_that_cannot_be_used(archive, tmp_path, table, message):
    (archive / "clinical.csv").unlink()
    if table is not None:
        (archive / "clinical.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        index(archive, tmp_path / "c", card=Card(**CARD))
    assert not (tmp_path / "c" / "volumes.parquet").exists()


def test_one_patient_only_and_copies(tmp_path):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    (tmp_path / "a" / "one_again.nii.gz").write_bytes((tmp_path / "a" / "one.nii.gz").read_bytes())
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", patient="(one)"))
    assert receipt.volumes == 1
    assert receipt.series_left_out == {"DUP_INSTANCE": 1}
    assert receipt.splits == {"train": 1}
    assert receipt.notes[0].startswith("one patient only")


def test_no_archive_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        index(tmp_path / "none", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        index(tmp_path / "empty", tmp_path / "c")
    with pytest.raises(UserError, match=r"no file matches 'x/\*'"):
        index(tmp_path / "empty", tmp_path / "c", card=Card(name="x", files="x/*"))
    with pytest.raises(UserError, match="no cohort here"):
        read_cohort(tmp_path / "c")


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    columns = {"a": "string"}
    write_table(tmp_path / "t.parquet", columns, [{"a": "old"}])

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    with pytest.raises(OSError, match="space"):
        write_table(tmp_path / "t.parquet", columns, [{"a": "new"}])
    monkeypatch.undo()
    assert pd.read_parquet(tmp_path / "t.parquet")["a"].tolist() == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


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
