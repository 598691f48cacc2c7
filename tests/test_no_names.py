"""Canaries in names, ids, descriptions, paths, dates and free text, taken all the way to a report: none is found in any byte
of any file outside the cohort's phi/ folder, in any file's name, or in anything that was printed.
"""

import json
import os
import re
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.conftest import CARD, RECIPE

CANARY = "Kanarienvogel"
DAY = "19580317"
TAGS = {
    "PatientName": f"{CANARY}^Anna", "PatientID": f"{CANARY}-77", "PatientBirthDate": DAY,
    "PatientAddress": CANARY, "OtherPatientIDs": CANARY, "PatientComments": CANARY, "InstitutionName": CANARY,
    "InstitutionAddress": CANARY, "StationName": CANARY, "ReferringPhysicianName": CANARY, "OperatorsName": CANARY,
    "StudyDescription": CANARY, "SeriesDescription": CANARY, "ProtocolName": CANARY, "AccessionNumber": CANARY,
    "StudyID": CANARY, "StudyDate": DAY, "SeriesDate": DAY, "ContentDate": DAY, "Manufacturer": CANARY,
    "ManufacturerModelName": CANARY, "DeviceSerialNumber": CANARY, "BodyPartExamined": CANARY, "SequenceName": CANARY,
    "ImageComments": CANARY, "ContrastBolusAgent": CANARY, "EthnicGroup": CANARY, "PatientSex": "F", "PatientAge": "061Y",
}  # fmt: skip


def write_series(folder: Path, seed: int) -> None:
    """An MR series of twelve slices whose every text is a canary, the last one damaged."""
    study, number, frame = generate_uid(), generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    for k in range(12):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, number, frame
        data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "MR", 20, 20, 1
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PhotometricInterpretation, data.PixelSpacing = "MONOCHROME2", [1, 1]
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 1.5 * k], [1, 0, 0, 0, 1, 0]
        data.PixelData = np.random.default_rng([seed, k]).integers(0, 99, (20, 20)).astype(np.int16).tobytes()
        with config.disable_value_validation(), warnings.catch_warnings(action="ignore"):
            for name, value in TAGS.items():
                setattr(data, name, value)
            data.save_as(folder / f"{CANARY}_{k}.dcm", enforce_file_format=True)


@pytest.fixture
def hospital(balls, tmp_path):
    """The balls' archive with canaries in its paths, ids and files, and DICOM beside it, some of it damaged."""
    archive = tmp_path / "in" / f"{CANARY} archive"
    table = pd.read_csv(balls / "archive" / "clinical.csv", dtype=str, keep_default_na=False)
    for name in table["file"]:
        for kind in ("images", "masks"):
            source = nib.load(balls / "archive" / kind / Path(name).name)
            image = nib.Nifti1Image(np.asarray(source.dataobj), source.affine)
            image.header["descrip"] = CANARY.encode()
            place = archive / kind / f"{CANARY}_{Path(name).name}"
            place.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, place)
    table["file"] = [f"images/{CANARY}_{Path(name).name}" for name in table["file"]]
    table["who"] = CANARY + table["who"]
    table.assign(surname=CANARY).to_csv(archive / "clinical.csv", index=False)
    (archive / "card.yaml").write_text(CARD.replace("files: images/*.nii.gz\n", ""))
    write_series(archive / f"{CANARY} study", 1)
    write_series(archive / f"{CANARY} other", 2)
    broken = archive / f"{CANARY} other" / f"{CANARY}_3.dcm"
    broken.write_bytes(broken.read_bytes()[:-300])
    (archive / f"{CANARY}.dcm").write_bytes(b"\0" * 128 + b"DICM" + CANARY.encode() * 20)
    (archive / f"{CANARY}.nii.gz").write_bytes(CANARY.encode())
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return archive


def hits(content: bytes) -> list[str]:
    """The canaries in some bytes, plain, in UTF-16, or inside a compressed block of a PNG or PDF."""
    words = [CANARY.encode(), CANARY.lower().encode(), CANARY.encode("utf-16-le"), DAY.encode(), b"1958-03-17"]
    found = [word.decode("latin-1") for word in words if word in content]
    for start in (match.start() for match in re.finditer(rb"zTXt|iTXt|IDAT", content)):
        try:
            found += [word.decode("latin-1") for word in words if word in zlib.decompress(content[start + 4 :])]
        except zlib.error:
            continue
    return found


@pytest.mark.slow
def test_no_canary_leaves_the_phi_folder(hospital, tmp_path):
    out, recipe = tmp_path / "out", tmp_path / "recipe.yaml"
    commands = [
        ["index", hospital, "-o", out / "cohort", "--card", hospital / "card.yaml"],
        ["summary", out / "cohort"],
        ["prepare", out / "cohort", "-o", out / "store", "--recipe", recipe],
        ["verify", out / "store", "-o", out / "verdict.json"],
        ["plan", out / "store"],
        ["pretrain", recipe, "--store", out / "store", "--run", out / "trunk"],
        ["finetune", recipe, "--store", out / "store", "--run", out / "model", "--from", out / "trunk"],
        ["predict", out / "model", out / "store", "-o", out / "predictions.csv"],
        ["predict", out / "model", hospital, "-o", out / "raw.csv", "--card", hospital / "card.yaml"],
        ["evaluate", out / "predictions.csv", "--by", "sex", "-o", out / "report.json"],
        ["report", out / "report.json", "-o", out / "page"],
        ["export", out / "cohort", "-o", out / "bids"],
        ["prepare", out / "cohort", "-o", out / "cohort" / "receipt.json"],  # a mistake: its message is looked at, too
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for command in commands:
        program = [sys.executable, "-m", "medssl", *map(str, command)]
        done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=300, check=False)
        assert done.returncode in ({2} if command == commands[-1] else {0}), done.stderr[-2000:]
        told = (done.stdout + done.stderr).replace(str(hospital), "")  # what the user typed may be told back
        assert hits(told.encode()) == [], command[0]
    receipt = json.loads((out / "cohort" / "receipt.json").read_text())
    assert receipt["volumes"] > 40
    assert sum(receipt["files_left_out"].values()) >= 3
    phi, own = out / "cohort" / "phi", out / "raw_work" / "cohort" / "phi"
    listed = out / "raw_refused.csv"  # names files, so that somebody can mend them
    assert listed.stat().st_mode & 0o777 == 0o600
    files = [path for path in out.rglob("*") if path.is_file() and path != listed and not {phi, own} & {*path.parents}]
    assert len(files) > 200
    assert hits(pd.read_parquet(phi / "files.parquet").to_csv().encode())  # where they may be, they are found
    for path in files:
        assert hits(str(path.relative_to(out)).encode()) == []
        assert hits(path.read_bytes()) == [], path.relative_to(out)
    tables = [pd.read_parquet(path) for path in files if path.suffix == ".parquet"]
    assert len(tables) >= 7
    for table in tables:  # Parquet is compressed
        assert hits(table.to_csv().encode()) == []
