"""PI-CAI, ProstateX, LIDC-IDRI, ACDC, the Medical Segmentation Decathlon and OpenMind in their own layouts."""

import math

import pytest

from medssl.errors import UserError

from .conftest import mha, nifti, text

HEADING = (
    "patient_id,study_id,mri_date,patient_age,psa,psad,prostate_volume,histopath_type,lesion_PIRADS,lesion_GS,"
    "lesion_ISUP,case_ISUP,case_csPCa,center"
)
MASKS = "picai_labels/csPCa_lesion_delineations/human_expert/resampled"


@pytest.fixture
def picai(archive):
    for patient, study in (("10000", "1000000"), ("10005", "1000005"), ("10005", "1000006")):
        for role in ("t2w", "adc", "hbv", "cor", "sag"):
            mha(archive / "images" / patient / f"{patient}_{study}_{role}.mha")
    nifti(archive / MASKS / "10005_1000006.nii.gz", (6, 5, 4), 3)
    text(archive / "picai_labels" / "clinical_information" / "marksheet.csv", HEADING,
         "10000,1000000,2019-07-02,73,7.7,,55,MRBx,4,0+0,0,0,NO,PCNN",
         "10005,1000005,2012-07-18,68,4.3,,,,,,,0,NO,RUMC",
         '10005,1000006,2014-07-18,70,8.3,,,MRBx,"4,5","3+4,N/A",2,2,YES,RUMC')  # fmt: skip
    return archive


def test_picai(picai, imported):
    found = imported("picai")
    sick = "images/10005/10005_1000006_t2w.mha"
    roles = {path.rsplit("_")[-1]: found.volume(path)["role"] for path in found.paths if "1000000" in path}
    assert roles == {"t2w.mha": "t2w", "adc.mha": "adc", "hbv.mha": "hbv", "cor.mha": "", "sag.mha": ""}
    assert len(found.people) == 2 and found.patient(sick)["n_studies"] == 2
    assert len({found.volume(p)["study_pid"] for p in found.paths if "1000006" in p}) == 1
    assert found.label(sick) == {"cspca": 1, "isup": 2}
    assert found.label("images/10005/10005_1000005_adc.mha") == {"cspca": 0, "isup": 0}
    assert found.volume(sick)["age_years"] == 70 and found.volume(sick)["site"] == "RUMC"
    assert {path for path, mask in found.masks.items() if mask} == {sick}, "the label map is on the grid of T2 only"
    assert found.masks[sick] == f"{MASKS}/10005_1000006.nii.gz"
    assert found.receipt.volumes_without_label_map.count == 2, "of three T2-weighted volumes"
    assert found.patient(sick)[["sex", "race"]].tolist() == ["unknown", "unknown"]


def test_picai_without_its_marksheet_or_a_column(picai, imported):
    sheet = picai / "picai_labels" / "clinical_information" / "marksheet.csv"
    text(sheet, HEADING.replace("case_csPCa", "csPCa"), "10000,1000000,2019-07-02,73,7.7,,55,MRBx,4,0+0,0,0,NO,PCNN")
    with pytest.raises(UserError, match="label 'cspca': the table has no column 'case_csPCa'"):
        imported("picai")
    sheet.unlink()
    with pytest.raises(UserError, match=r"marksheet.csv: the card's table is not there"):
        imported("picai")


def test_prostatex_is_sick_where_any_finding_is(archive, imported, series):
    for patient in ("ProstateX-0000", "ProstateX-0005", "ProstateX-0204"):
        series(archive / "PROSTATEx" / patient / "1" / "2", patient, PatientSex="M", PatientAge="067Y")
    text(archive / "ProstateX-TrainingLesionInformationv2" / "ProstateX-Findings-Train.csv", "ProxID,fid,pos,zone,ClinSig",
         "ProstateX-0000,1,25.7 31.8 -38.5,PZ,TRUE", "ProstateX-0005,1,-14 19 -29,TZ,TRUE",
         "ProstateX-0005,2,-22 18 -40,PZ,FALSE", "ProstateX-0006,1,1 2 3,AS,FALSE")  # fmt: skip
    found = imported("prostatex")
    told = {path.split("/")[1]: (found.label(path), found.patient(path)["sex"]) for path in found.paths}
    assert told == {
        "ProstateX-0000": ({"cspca": 1}, "M"),
        "ProstateX-0005": ({"cspca": 1}, "M"),
        "ProstateX-0204": ({}, "M"),
    }
    text(
        archive / "ProstateX-TrainingLesionInformationv2" / "ProstateX-Findings-Train.csv",
        "ProxID,fid",
        "ProstateX-0000,1",
    )
    with pytest.raises(UserError, match="the table has no column 'ClinSig'"):
        imported("prostatex")


def test_lidc_idri(archive, imported, series):
    for patient in ("LIDC-IDRI-0001", "LIDC-IDRI-0002"):
        series(archive / "LIDC-IDRI" / patient / "1" / "2", patient, PatientSex="", PatientAge="")
        text(archive / "LIDC-IDRI" / patient / "1" / "2" / "069.xml", "<LidcReadMessage/>")
    found = imported("lidc_idri")
    assert found.receipt.files == 12 and found.receipt.by_modality == {"CT": 2}
    assert found.people[["sex", "sex_source"]].to_numpy().tolist() == [["unknown", "none"]] * 2


@pytest.fixture
def acdc(archive):
    for place, frames, group in (("training/patient001", (1, 12), "DCM"), ("testing/patient101", (1, 14), "NOR")):
        folder, name = archive / place, place.split("/")[1]
        text(folder / "Info.cfg", f"ED: {frames[0]}", f"ES: {frames[1]}", f"Group: {group}", "Height: 184.0",
             "NbFrame: 30", "Weight: 95.0")  # fmt: skip
        nifti(folder / f"{name}_4d.nii.gz", (4, 5, 6, 3))
        for frame in frames:
            nifti(folder / f"{name}_frame{frame:02}.nii.gz")
            nifti(folder / f"{name}_frame{frame:02}_gt.nii.gz", top=4)
    return archive


def test_acdc(acdc, imported):
    found = imported("acdc")
    first = "training/patient001/patient001_frame01.nii.gz"
    assert sorted(found.paths) == [
        "testing/patient101/patient101_frame01.nii.gz", "testing/patient101/patient101_frame14.nii.gz",
        first, "training/patient001/patient001_frame12.nii.gz"]  # fmt: skip
    assert found.masks == {path: path.replace(".nii.gz", "_gt.nii.gz") for path in found.paths}
    assert {name for name, value in found.label(first).items() if value} == {"dilated"} and len(found.label(first)) == 5
    assert len(found.people) == 2 and found.patient(first)["diagnosis"] == "DCM"
    assert found.patient(first)["split"] in ("train", "val")
    assert found.patient("testing/patient101/patient101_frame14.nii.gz")["split"] == "test"
    assert found.receipt.label_maps_without_image.count == found.receipt.volumes_without_label_map.count == 0
    assert set(found.volumes["modality"]) == {"MR"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [(("ED: 1",), "acdc: nothing is called 'Group'.*there is: ED"), (("Group: XYZ",), "diagnosis: holds a code"),
     ((), "no 'Info.cfg' beside an image")],
)  # fmt: skip
def test_acdc_without_its_facts(acdc, imported, lines, message):
    (acdc / "training" / "patient001" / "Info.cfg").unlink()
    if lines:
        text(acdc / "training" / "patient001" / "Info.cfg", *lines)
    with pytest.raises(UserError, match=message):
        imported("acdc")


TASKS = {
    "Task01_BrainTumour/imagesTr/BRATS_001": "MR", "Task02_Heart/imagesTr/la_003": "MR",
    "Task03_Liver/imagesTr/liver_0": "CT", "Task04_Hippocampus/imagesTr/hippocampus_001": "MR",
    "Task05_Prostate/imagesTr/prostate_00": "MR", "Task06_Lung/imagesTr/lung_001": "CT",
    "Task07_Pancreas/imagesTr/pancreas_001": "CT", "Task08_HepaticVessel/imagesTr/hepaticvessel_001": "CT",
    "Task09_Spleen/imagesTr/spleen_2": "CT", "Task10_Colon/imagesTr/colon_001": "CT",
}  # fmt: skip


def test_the_ten_tasks_of_the_decathlon(archive, imported):
    for name in TASKS:
        nifti(archive / f"{name}.nii.gz", (4, 5, 6, 4) if "BRATS" in name or "prostate" in name else (4, 5, 6))
        nifti(archive / f"{name.replace('images', 'labels')}.nii.gz", top=3)
        text(archive / name.split("/")[0] / "dataset.json", "{}")
    nifti(archive / "Task02_Heart" / "imagesTs" / "la_001.nii.gz")
    text(archive / "Task02_Heart" / "imagesTr" / "._la_003.nii.gz", "macOS")
    found = imported("msd")
    assert found.receipt.files == 10 and found.receipt.files_left_out == {"NDIM": 2}
    told = {path.removesuffix(".nii.gz"): found.volume(path)["modality"] for path in found.paths}
    assert told == {name: kind for name, kind in TASKS.items() if "BRATS" not in name and "prostate" not in name}
    assert len(found.people) == 8 and found.receipt.masks == 8
    spleen = "Task09_Spleen/imagesTr/spleen_2.nii.gz"
    assert found.masks[spleen] == "Task09_Spleen/labelsTr/spleen_2.nii.gz"
    assert found.patient(spleen)["task"] == "Task09_Spleen"


def test_a_task_that_the_decathlon_does_not_have(archive, imported):
    nifti(archive / "Task11_Ear" / "imagesTr" / "ear_001.nii.gz")
    with pytest.raises(UserError, match="modality: holds a code"):
        imported("msd")


def test_openmind(archive, imported):
    names = {
        "ds001486/sub-001/ses-T1/anat/sub-001_ses-T1_T1w.nii.gz": "T1w,F,23.0,,SIEMENS,healthy",
        "ds001486/sub-001/ses-T2/anat/sub-001_ses-T2_T1w.nii.gz": "T1w,F,23.0,,SIEMENS,healthy",
        "ds001491/sub-001/anat/sub-001_FLAIR.nii.gz": "FLAIR,,,White,GE,",
    }
    for name in names:
        nifti(archive / "OpenMind" / name)
    nifti(archive / "OpenMind" / "ds001491" / "sub-001" / "anat" / "sub-001_FLAIR_anon_mask.nii.gz", top=2)
    heading = "image_path,modality,sex,age,race,manufacturer,health_status"
    text(archive / "openneuro_metadata.csv", heading, *(f"{name},{row}" for name, row in names.items()))
    found = imported("openmind")
    first, other = f"OpenMind/{next(iter(names))}", "OpenMind/ds001491/sub-001/anat/sub-001_FLAIR.nii.gz"
    assert found.receipt.files_left_out == {"NOT_IN_CARD": 1}
    assert len(found.people) == 2, "sub-001 of two studies is two people"
    assert found.patient(first)[["sex", "age_years", "n_studies", "technique"]].tolist() == ["F", 23, 2, "T1w"]
    assert found.patient(other)[["sex", "race", "technique"]].tolist() == ["unknown", "White", "FLAIR"]
    assert math.isnan(found.patient(other)["age_years"]) and found.volume(other)["scanner"] == "GE"
    assert found.patient(other)["race_scheme"] == "the words of each OpenNeuro study"
    text(archive / "openneuro_metadata.csv", heading.replace("image_path", "path"))
    with pytest.raises(UserError, match=r"no column 'image_path' \(for image\)"):
        imported("openmind")
