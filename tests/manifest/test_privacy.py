"""Nothing that names a patient leaves phi/: not in tables, not in the receipt, not on the terminal."""

import stat
import subprocess
import sys
import warnings

import pandas as pd
import pytest

from medssl.archive.headers import read_header
from medssl.errors import UserError
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.pseudonyms import is_shared
from medssl.manifest.reading import read_file

FREE_TEXT = {
    "PatientName": "Canary^Name", "InstitutionName": "Canary Hospital", "SeriesDescription": "canary words",
    "StudyDescription": "canary words", "BodyPartExamined": "CANARYPART", "ViewPosition": "CANARYVIEW",
    "StationName": "CANARYSTATION", "EthnicGroup": "canary", "OperatorsName": "Canary^Operator",
    "Manufacturer": "Canary Scanners", "ManufacturerModelName": "Canary 3000", "ConvolutionKernel": "CANARY",
    "Laterality": "CANARY", "ImageLaterality": "CANARY",
    "PatientBirthDate": "19210304", "StudyDate": "20240506", "PatientSex": "F", "PatientAge": "103Y",
}  # fmt: skip


@pytest.fixture
def archive(series, tmp_path):
    folder = tmp_path / "Canary-Folder"
    series(folder / "canary_path", "Canary-77", **FREE_TEXT)
    series(folder / "other", "Canary-78", BodyPartExamined="chest")
    damaged = folder / "canary_damaged.dcm"
    damaged.write_bytes((folder / "other" / "0.dcm").read_bytes()[:-1500])
    (folder / "canary.csv").write_text("id,sex\nCanary-77,F\nCanary-99,M\n")
    return folder


CARD = Card(name="x", table="canary.csv", columns={"patient_id": "id", "sex": "sex"}, masks="m/{name}")


def raw_values(folder):
    import pydicom

    for path in folder.rglob("[0-3].dcm"):
        data = pydicom.dcmread(path)
        yield from (str(data.SOPInstanceUID), str(data.SeriesInstanceUID), str(data.StudyInstanceUID))


def test_no_raw_value_is_in_any_table_or_in_the_receipt(archive, tmp_path):
    receipt = index(archive, tmp_path / "c", card=CARD)
    shown = str(receipt) + (tmp_path / "c" / "receipt.json").read_text()
    shown += "".join(pd.read_parquet(path).to_csv() for path in (tmp_path / "c").glob("*.parquet"))
    raw = b"".join(path.read_bytes() for path in (tmp_path / "c").glob("*") if path.is_file())
    assert receipt.volumes == 2 and receipt.table_rows_without_image.count == 1
    for word in ("canary", "19210304", "20240506", ".dcm", "103.0", tmp_path.name, *raw_values(archive)):
        assert word not in shown.lower()
        assert word.encode() not in raw.lower()
    assert set(read_cohort(tmp_path / "c").volumes["body_part"]) == {"CHEST", "unknown"}


def test_the_terminal_shows_none_either(archive, tmp_path):
    broken = bytearray((archive / "other" / "1.dcm").read_bytes())
    broken[140:700] = bytes(reversed(broken[140:700]))
    (archive / "canary_broken.dcm").write_bytes(broken)
    code = (
        "import sys; from medssl.manifest import index, Card; from medssl.units import Work\n"
        "print(index(sys.argv[1], sys.argv[2], work=Work(workers=2))) if __name__ == '__main__' else None"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script, archive, tmp_path / "c"], capture_output=True, text=True, check=True)
    assert "2 volumes" in done.stdout
    assert "canary" not in (done.stdout + done.stderr).lower()


def test_what_a_library_warns_of_stays_unsaid_and_costs_no_file(archive, monkeypatch):
    def loud(path):
        warnings.warn(f"odd value Canary in {path}", stacklevel=1)
        return read_header(path)

    monkeypatch.setattr("medssl.manifest.reading.read_header", loud)
    file = read_file(archive / "other" / "0.dcm")  # here a warning that gets out is an error
    assert file.reason == "" and file.header is not None


def test_what_is_identifiable_is_for_its_owner_alone(archive, tmp_path):
    (tmp_path / "c" / "phi").mkdir(parents=True, mode=0o755)
    index(archive, tmp_path / "c", card=CARD)
    phi = tmp_path / "c" / "phi"
    assert stat.S_IMODE(phi.stat().st_mode) == 0o700
    assert sorted(path.name for path in phi.iterdir()) == ["files.parquet", "headers", "key", "sources.parquet"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in phi.rglob("*") if path.is_file()} == {0o600}


def test_a_key_that_others_can_read_is_told(archive, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o640)
    assert is_shared(key)
    receipt = index(archive, tmp_path / "c", card=CARD, key_file=key)
    assert "others may read the key of the pseudonyms; chmod 600 it" in receipt.notes
    assert not (tmp_path / "c" / "phi" / "key").exists()


def test_every_file_can_be_found_again_from_its_pseudonym(archive, tmp_path):
    index(archive, tmp_path / "c", card=CARD)
    paths = pd.read_parquet(tmp_path / "c" / "phi" / "files.parquet").set_index("instance_pid")["path"]
    out = read_cohort(tmp_path / "c").instances.query("status == 'excluded'")
    assert [paths[pid] for pid in out["instance_pid"]] == ["canary_damaged.dcm"]


def test_errors_about_a_table_show_no_cell(archive, tmp_path):
    (archive / "canary.csv").write_text("id,sex\nCanary-77,Canary Name\n")
    card = Card(name="x", table="canary.csv", columns={"patient_id": "id"}, labels={"ill": "column sex"})
    with pytest.raises(UserError, match="row 2: label 'ill': column 'sex' does not hold a number") as error:
        index(archive, tmp_path / "c", card=card)
    assert "Canary Name" not in str(error.value)
    assert "Canary-77" not in str(error.value)
