"""Indexing DICOM: patients, sites, tables and reasons, and a canary in every tag that could name somebody."""

import json
import re
import sqlite3
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medssl.archive.reasons import REASONS
from medssl.errors import UserError
from medssl.manifest import Card, index, read_card, read_cohort
from medssl.manifest.pseudonyms import pseudonym, read_key
from medssl.manifest.splits import split_of

ROOT = Path(__file__).parents[2]
FRACTIONS = {"train": 0.6, "val": 0.1, "test": 0.3}
PRIVATE = {
    "PatientName": "Canary^Jane", "OtherPatientIDs": "canary-other", "PatientBirthDate": "19430207",
    "PatientAddress": "Canary Street 5", "ReferringPhysicianName": "Canary^Doctor", "StudyDate": "20190304",
    "StudyDescription": "canary study", "SeriesDescription": "canary series", "AccessionNumber": "canary-77",
    "InstitutionName": "Canary Hospital", "ProtocolName": "canary protocol", "StationName": "CANARY1",
    "EthnicGroup": "canary group", "PatientComments": "canary comment", "ViewPosition": "CANARY",
    "ImageComments": "canary image", "OperatorsName": "Canary^Nurse", "Laterality": "C",
}  # fmt: skip


def scan(folder, patient, series, slices=4, **tags):
    """A CT series of a patient, a file a slice."""
    for k in range(slices):
        data = Dataset()
        facts = {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": generate_uid(), "PatientID": patient,
            "StudyInstanceUID": f"1.2.{series}", "SeriesInstanceUID": f"1.2.{series}.1", "Modality": "CT", "Rows": 4,
            "Columns": 5, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
            "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "ImageType": ["ORIGINAL", "PRIMARY"],
            "RescaleSlope": 1, "RescaleIntercept": -1024, "ImagePositionPatient": [0, 0, 2 * k],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1],
        }  # fmt: skip
        for name, value in {**facts, **tags}.items():
            if value is not None:
                setattr(data, name, value)
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PixelData = np.full((4, 5), 1000 + k, np.int16).tobytes()
        folder.mkdir(parents=True, exist_ok=True)
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def archive(tmp_path):
    """Three patients: two volumes, a volume with a gap, and some files that are no images."""
    folder = tmp_path / "archive"
    scan(folder / "canary-a", "canary-001", 11, PatientSex="F", PatientAge="061Y", **PRIVATE)
    scan(folder / "canary-b", "canary-002", 12, **PRIVATE)
    for path in scan(folder / "canary-c", "canary-003", 13, 6, **PRIVATE).glob("2.dcm"):
        path.unlink()
    (folder / "canary.txt").write_text("canary " * 30)
    (folder / "broken.dcm").write_bytes((folder / "canary-a" / "0.dcm").read_bytes()[:-20])
    (folder / "empty.dcm").touch()
    return folder


def rows(cohort, name):
    return json.loads(pd.read_parquet(cohort / f"{name}.parquet").to_json(orient="records"))


def test_every_file_is_in_the_instances_once_with_its_own_reason(archive, tmp_path):
    receipt = index(archive, tmp_path / "c")
    cohort = read_cohort(tmp_path / "c")
    files = [path for path in archive.rglob("*") if path.is_file()]
    assert len(cohort.instances) == len(files) == receipt.files == 16
    assert cohort.instances["instance_pid"].is_unique
    key = (tmp_path / "c" / "phi" / "key").read_bytes()
    names = {pseudonym(key, "instance", path.relative_to(archive).as_posix()) for path in files}
    assert set(cohort.instances["instance_pid"]) == names
    assert receipt.files_left_out == {"EMPTY_FILE": 1, "NOT_AN_ARCHIVE_FILE": 1, "PIXELDATA_TRUNCATED": 1}
    assert receipt.series_left_out == {"MISSING_SLICE": 1}
    reasons = cohort.instances["reason"].value_counts()
    assert reasons.to_dict() == {"": 8, "MISSING_SLICE": 5, **receipt.files_left_out}
    assert set(reasons.index) - {""} <= set(REASONS)
    assert sorted(cohort.instances["size"]) == sorted(path.stat().st_size for path in files)
    assert cohort.volumes["volume_id"].is_unique


def test_no_canary_leaves_phi_in_any_byte_or_cell(archive, tmp_path):
    (archive / "told.csv").write_text("who,grade\ncanary-001,2\ncanary-404,1\n")
    card = Card(name="x", table="told.csv", columns={"patient_id": "who"}, labels={"grade": "column grade"})
    receipt = index(archive, tmp_path / "c", card=card)
    shown = [str(receipt)]
    for path in (tmp_path / "c").rglob("*"):
        if path.is_file() and "phi" not in path.parts:
            shown += [path.read_bytes().decode("latin-1"), path.name]
            if path.suffix == ".parquet":
                shown.append(pd.read_parquet(path).to_csv())
    told = "\n".join(shown).lower()
    assert "grade" in told
    for secret in ("canary", "jane", "19430207", "20190304", str(tmp_path).lower(), "1.2.11", ".dcm"):
        # Pseudonyms and checksums are letters and digits in any order: what stands inside a longer one is no name.
        assert not re.search(rf"(?<![0-9a-z]){re.escape(secret)}", told), secret
    sources = pd.read_parquet(tmp_path / "c" / "phi" / "sources.parquet")
    assert sources["path"].str.contains("canary").any()


def test_what_is_written_matches_the_schemas_row_by_row(archive, tmp_path):
    (archive / "told.csv").write_text("who,grade,ward\ncanary-001,2,north\n")
    columns = {"patient_id": "who", "ward": "ward"}
    index(archive, tmp_path / "c", card=Card(name="x", table="told.csv", columns=columns, labels={"g": "column grade"}))
    for name in ("instances", "volumes", "patients", "labels"):
        schema = json.loads((ROOT / "data_manifests" / f"{name}.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        written = rows(tmp_path / "c", name)
        assert written
        for row in written:
            validator.validate(row)
        for column in schema["required"]:
            assert not validator.is_valid({k: v for k, v in written[0].items() if k != column}), (name, column)


@pytest.mark.parametrize(("name", "column"), [("volumes", "split"), ("volumes", "status"), ("patients", "sex"),
                                              ("patients", "split"), ("instances", "status")])  # fmt: skip
def test_the_schemas_know_the_words(archive, tmp_path, name, column):
    index(archive, tmp_path / "c")
    schema = json.loads((ROOT / "data_manifests" / f"{name}.schema.json").read_text())
    row = rows(tmp_path / "c", name)[0]
    assert not jsonschema.Draft202012Validator(schema).is_valid(row | {column: "something else"})


def test_slices_without_a_patient_stay_together(tmp_path):
    scan(tmp_path / "a" / "1", "", 21)
    scan(tmp_path / "a" / "2", None, 22)
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert (receipt.volumes, receipt.patients, receipt.series_left_out) == (2, 2, {})


@pytest.mark.parametrize("key", ["study_uid", "series_uid", "file"])
def test_a_table_may_say_whose_a_study_is(tmp_path, key):
    names = {"study_uid": ["1.2.31", "1.2.32"], "series_uid": ["1.2.31.1", "1.2.32.1"], "file": ["1/0.dcm", "2/0.dcm"]}
    for n, series in enumerate((31, 32), 1):
        scan(tmp_path / "a" / str(n), "", series, slices=4 if key != "file" else 1)
    table = "\n".join(["what,who,sex", *(f"{name},ann,F" for name in names[key])])
    (tmp_path / "a" / "t.csv").write_text(table)
    card = Card(name="x", table="t.csv", key=key, columns={key: "what", "patient_id": "who", "sex": "sex"})
    index(tmp_path / "a", tmp_path / "c", card=card)
    people = read_cohort(tmp_path / "c").patients
    assert people[["sex", "sex_source"]].to_numpy().tolist() == [["F", "x: sex"]]


def test_the_table_counts_before_the_header_and_what_differs_is_unknown(tmp_path):
    scan(tmp_path / "a" / "1", "ann", 41, PatientSex="F", PatientAge="050Y")
    scan(tmp_path / "a" / "2", "bob", 42, PatientSex="M", PatientAge="030Y")
    scan(tmp_path / "a" / "3", "cat", 43, PatientSex="F")
    scan(tmp_path / "a" / "4", "cat", 44, PatientSex="M")
    scan(tmp_path / "a" / "5", "dan", 45)
    (tmp_path / "a" / "t.csv").write_text("who,sex,age\nann,M,70\nbob,,\n")
    card = Card(name="x", table="t.csv", columns={"patient_id": "who", "sex": "sex", "age_years": "age"})
    index(tmp_path / "a", tmp_path / "c", card=card)
    key = read_key(tmp_path / "c" / "phi" / "key")
    people = read_cohort(tmp_path / "c").patients.set_index("patient_pid")
    told = {name: people.loc[pseudonym(key, "patient", name)] for name in ("ann", "bob", "cat", "dan")}
    assert {name: (row["sex"], row["sex_source"], row["age_band"]) for name, row in told.items()} == {
        "ann": ("M", "x: sex", "60-74"), "bob": ("M", "header", "<40"), "cat": ("unknown", "header", "unknown"),
        "dan": ("unknown", "none", "unknown"),
    }  # fmt: skip
    assert told["dan"][["race", "ethnicity", "site"]].tolist() == ["unknown"] * 3


def test_a_reader_that_breaks_in_a_new_way_stops_nothing(archive, tmp_path, monkeypatch):
    def broken(path):
        raise sqlite3.Error("canary")

    monkeypatch.setattr("medssl.manifest.reading.read_header", broken)
    receipt = index(archive, tmp_path / "c")
    assert receipt.files_left_out == {"UNREADABLE": 16}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"masks": "masks/{patient}.nii"}, "{stem}, {name}"),
        ({"masks": "masks/{"}, "masks/{"),
        ({"patient": "(a"}, "regular expression"),
        ({"patient": "abc"}, "has 0 groups"),
        ({"patient": "(a)(b)"}, "has 2 groups"),
        ({"splits": {}}, "add up to 1"),
        ({"splits": {"train": 1.5, "test": -0.5}}, "add up to 1"),
        ({"splits": {"train": 0.5, "dev": 0.5}}, "add up to 1"),
        ({"key": "nickname"}, "is not one of"),
    ],
)
def test_a_card_that_cannot_work_is_refused_at_once(facts, message):
    with pytest.raises(UserError) as error:
        Card(name="x", **facts)
    assert message in str(error.value)
    assert str(error.value).startswith("card x: ")


def test_a_table_in_another_encoding_says_so(archive, tmp_path):
    (archive / "t.csv").write_bytes("who,sex\nJörg,M\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        index(archive, tmp_path / "c", card=Card(name="x", table="t.csv", columns={"patient_id": "who"}))


def test_a_short_key_file_is_refused_and_nothing_is_written(archive, tmp_path):
    (tmp_path / "key").write_bytes(b"x" * 31)
    with pytest.raises(UserError, match="31 bytes"):
        index(archive, tmp_path / "c", key_file=tmp_path / "key")
    assert not (tmp_path / "c").exists()


@settings(max_examples=60)
@given(st.sets(st.text(min_size=1, max_size=20), min_size=1, max_size=40), st.sets(st.text(min_size=1), max_size=40))
def test_new_patients_move_nobody(people, more):
    before = {person: split_of(person, "7", FRACTIONS) for person in people}
    after = {person: split_of(person, "7", FRACTIONS) for person in sorted(people | more)}
    assert all(after[person] == split for person, split in before.items())


@pytest.mark.parametrize("seed", ["0", "1", "seed"])
def test_two_thousand_patients_meet_the_fractions(seed):
    told = [split_of(f"{n:06d}", seed, FRACTIONS) for n in range(2000)]
    for name, share in FRACTIONS.items():
        assert told.count(name) / 2000 == pytest.approx(share, abs=0.04)


def test_growing_an_archive_moves_nobody_and_keeps_names(tmp_path):
    for n in range(6):
        scan(tmp_path / "a" / str(n), f"p{n}", 50 + n, slices=3)
    index(tmp_path / "a", tmp_path / "c")
    before = read_cohort(tmp_path / "c").volumes.set_index("volume_id")
    for n in range(6, 9):
        scan(tmp_path / "a" / str(n), f"p{n}", 50 + n, slices=3)
    index(tmp_path / "a", tmp_path / "c")
    after = read_cohort(tmp_path / "c").volumes.set_index("volume_id")
    assert len(after) == 9
    assert after.loc[before.index].equals(before)


@pytest.mark.real
def test_real_dicom_is_accounted_for(real_data, tmp_path):
    card = read_card(ROOT / "data_manifests" / "archive_dicom.yaml")
    receipt = index(real_data / "archive_dicom", tmp_path / "c", card=card)
    cohort = read_cohort(tmp_path / "c")
    assert receipt.volumes == 11
    assert len(cohort.instances) == receipt.files
    assert set(cohort.volumes["reason"]) - {""} <= set(REASONS)
    kept = cohort.volumes[cohort.volumes["status"] != "excluded"]
    assert kept.groupby("patient_pid")["split"].nunique().max() == 1
    validator = jsonschema.Draft202012Validator(
        json.loads((ROOT / "data_manifests" / "volumes.schema.json").read_text())
    )
    for row in rows(tmp_path / "c", "volumes"):
        validator.validate(row)


def test_what_files_say_of_their_making_is_in_the_tables(tmp_path):
    scan(tmp_path / "a" / "1", "ann", 51, StudyDate="20200101", PatientAge="050Y", LossyImageCompression="01")
    with config.disable_value_validation():
        scan(tmp_path / "a" / "2", "ann", 52, StudyDate="2020.01.31")
        scan(tmp_path / "a" / "3", "ann", 53, StudyDate="20200231")
    for path in (tmp_path / "a" / "3").iterdir():
        path.write_bytes(b"MZ" + path.read_bytes()[2:])
    scan(tmp_path / "a" / "4", "bob", 54, StudyDate="19991231")
    index(tmp_path / "a", tmp_path / "c")
    cohort = read_cohort(tmp_path / "c")
    told = cohort.volumes[["days_since_first", "age_source", "lossy", "intent"]].fillna(-1).to_numpy().tolist()
    assert sorted(told) == [
        [-1, "none", False, "unknown"], [0, "age", True, "unknown"], [0, "none", False, "unknown"],
        [30, "none", False, "unknown"],
    ]  # fmt: skip
    files = cohort.instances
    assert set(files["transfer_syntax"]) == {"1.2.840.10008.1.2.1"} and set(files["parse_path"]) == {"fast"}
    assert files["flags"].value_counts().to_dict() == {"": 12, "PREAMBLE_NONZERO": 4}
    for path in (tmp_path / "c").glob("*.parquet"):
        assert "2020" not in pd.read_parquet(path).drop(columns=["crc32c"], errors="ignore").to_csv()
