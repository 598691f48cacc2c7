"""NIH ChestX-ray14, CheXpert and MIMIC-CXR-JPG in their own layouts."""

import math

import pytest

from medssl.errors import UserError

from .conftest import picture, text

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


@pytest.fixture
def nih(archive):
    for folder, name in (
        ("001", "00000001_000"),
        ("001", "00000001_001"),
        ("002", "00001335_006"),
        ("012", "00030805_000"),
    ):
        picture(archive / f"images_{folder}" / "images" / f"{name}.png")
    text(archive / "Data_Entry_2017.csv", NIH,
         "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
         "00000001_001.png,Cardiomegaly,1,1,058Y,M,PA,2894,2729,0.143,0.143,",
         "00001335_006.png,No Finding,6,1335,412Y,F,AP,2500,2048,0.168,0.168,",
         "00030805_000.png,Pleural_Thickening,0,30805,027,M,AP,2048,2500,0.171,0.171,",
         "00000009_000.png,Mass,0,9,1,F,AP,1,1,0.1,0.1,")  # fmt: skip
    text(archive / "train_val_list.txt", "00000001_000.png", "00000001_001.png", "00000009_000.png")
    text(archive / "test_list.txt", "00001335_006.png", "00030805_000.png")
    return archive


def test_nih_chestxray14(nih, imported):
    found = imported("nih_chestxray14")
    first, last = "images_001/images/00000001_000.png", "images_012/images/00030805_000.png"
    assert len(found.people) == 3 and found.receipt.files == 4
    assert found.patient(first)[["sex", "age_years", "race", "race_source"]].tolist() == ["M", 58, "unknown", "none"]
    labels = found.label(first)
    assert {name for name, value in labels.items() if value} == {"cardiomegaly", "emphysema"} and len(labels) == 15
    assert found.label(last)["pleural_thickening"] == 1 and found.label(last)["no_finding"] == 0
    assert found.patient(first)["split"] in ("train", "val") and found.patient(last)["split"] == "test"
    assert found.volume(last)["view_position"] == "AP"
    assert math.isnan(found.patient("images_002/images/00001335_006.png")["age_years"])
    assert "1 ages are not believable; they count as unknown" in found.receipt.notes
    assert found.receipt.table_rows_without_image.count == 1


def test_nih_lists_must_be_complete_and_apart(nih, imported):
    text(nih / "test_list.txt", "00001335_006.png")
    with pytest.raises(UserError, match="in none of the split_lists"):
        imported("nih_chestxray14")
    text(nih / "test_list.txt", "00001335_006.png", "00000001_000.png")
    with pytest.raises(UserError, match=r"list.txt: line \d is also in the list of"):
        imported("nih_chestxray14")
    (nih / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"test_list.txt: the card's list of test is not there"):
        imported("nih_chestxray14")


def test_nih_lists_that_tear_a_patient_apart_are_refused(nih, imported):
    text(nih / "train_val_list.txt", "00000001_000.png")
    text(nih / "test_list.txt", "00000001_001.png", "00001335_006.png", "00030805_000.png")
    with pytest.raises(UserError, match="1 patients are in two splits"):
        imported("nih_chestxray14")


FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS}"
SMALL = "CheXpert-v1.0-small"


@pytest.fixture
def chexpert(archive):
    rows = {
        "train/patient00001/study1/view1_frontal.jpg": "Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        "train/patient00002/study1/view1_frontal.jpg": "Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,1.0,,,",
        "train/patient00002/study2/view2_lateral.jpg": "Male,87,Lateral,,,,0.0,,,,,,,,,,,",
        "valid/patient64541/study1/view1_frontal.jpg": "Unknown,0,Frontal,AP,0.0,0.0,1.0,1.0" + 10 * ",0.0",
    }
    for name in rows:
        picture(archive / SMALL / name)
    for part in ("train", "valid"):
        text(archive / SMALL / f"{part}.csv", CHEXPERT,
             *(f"{SMALL}/{name},{row}" for name, row in rows.items() if name.startswith(part)))  # fmt: skip
    picture(archive / SMALL / "test" / "patient64741" / "study1" / "view1_frontal.jpg")
    text(archive / "CHEXPERT DEMO.csv", "PATIENT,GENDER,AGE_AT_CXR,PRIMARY_RACE,ETHNICITY",
         'patient00001,Female,68,"White, non-Hispanic",Non-Hispanic/Non-Latino',
         "patient00002,Male,87,Black or African American,Hispanic/Latino", "patient64541,Male,1,Patient Refused,Unknown",
         "patient99999,Male,30,Asian,Unknown")  # fmt: skip
    return archive


def test_chexpert(chexpert, imported):
    found = imported("chexpert")
    one, two, side, valid = (
        f"{SMALL}/{n}.jpg"
        for n in ("train/patient00001/study1/view1_frontal", "train/patient00002/study1/view1_frontal",
                  "train/patient00002/study2/view2_lateral", "valid/patient64541/study1/view1_frontal")
    )  # fmt: skip
    assert found.receipt.files == 4 and len(found.people) == 3
    assert found.patient(one)[["sex", "race", "ethnicity", "age_years"]].tolist() == ["F", "White", "Non-Hispanic", 68]
    assert found.patient(two)[["sex", "race", "ethnicity"]].tolist() == ["M", "Black", "Hispanic"]
    assert found.patient(valid)[["sex", "race", "ethnicity"]].tolist() == ["unknown"] * 3
    assert math.isnan(found.patient(valid)["age_years"])
    assert found.patient(two)["race_source"] == "chexpert: PRIMARY_RACE" and found.patient(two)["n_studies"] == 2
    assert found.volume(one)["study_pid"] != found.volume(two)["study_pid"]
    assert [found.volume(path)["view_position"] for path in (one, two, side)] == ["AP", "PA", "LATERAL"]
    assert found.label(one) == {"no_finding": 1, "pneumothorax": 0, "support_devices": 1}
    assert found.label(two) == {"lung_opacity": 1, "pleural_effusion": 1}, "-1 and blank are no labels"
    assert len(found.label(valid)) == 14 and found.label(valid)["cardiomegaly"] == 1
    assert found.patient(one)["split"] in ("train", "val") and found.patient(valid)["split"] == "test"


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        (f"{SMALL}/train.csv", "-1.0", "2.0", r"train.csv: row 3: cardiomegaly: holds a code"),
        (f"{SMALL}/train.csv", "Pleural Other", "Pleural", "column 'Pleural( Other)?' is not in all of"),
        (f"{SMALL}/train.csv", "Female", "Femal", r"train.csv: row 2: sex: holds a code"),
        ("CHEXPERT DEMO.csv", "PRIMARY_RACE", "RACE", r"no column 'PRIMARY_RACE' \(for race\)"),
        ("CHEXPERT DEMO.csv", "Patient Refused", "Martian", r"DEMO.csv: row 4: race: holds a code"),
        ("CHEXPERT DEMO.csv", "PATIENT", "WHO", r"no column 'PATIENT' \(in joins\)"),
        ("CHEXPERT DEMO.csv", "", None, r"CHEXPERT DEMO.csv: the card's table is not there"),
        (f"{SMALL}/valid.csv", "", None, r"the card's table is not there"),
    ],
)
def test_chexpert_tables_that_do_not_fit(chexpert, imported, name, before, after, message):
    content = (chexpert / name).read_text()
    (chexpert / name).unlink()
    if after is not None:
        (chexpert / name).write_text(content.replace(before, after, 1))
    with pytest.raises(UserError, match=message) as error:
        imported("chexpert")
    assert "Martian" not in str(error.value)


ONE, TWO = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014", "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962"
MIMIC_ONE, MIMIC_TWO = f"files/p10/p10000032/s50414267/{ONE}.jpg", f"files/p19/p19999987/s55368167/{TWO}.jpg"
MIMIC_FINDINGS = ",".join(sorted(FINDINGS.split(",")))


@pytest.fixture
def mimic(archive):
    picture(archive / MIMIC_ONE)
    picture(archive / MIMIC_TWO)
    text(
        archive / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,ViewPosition,Rows,StudyDate,StudyTime",
        f"{ONE},10000032,50414267,PA,3056,21800506,213014.5",
        f"{TWO},19999987,55368167,LATERAL,3056,21451102,202809",
    )
    text(
        archive / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split",
        f"{ONE},50414267,10000032,validate",
        f"{TWO},55368167,19999987,test",
    )
    text(
        archive / "mimic-cxr-2.0.0-chexpert.csv.gz",
        f"subject_id,study_id,{MIMIC_FINDINGS}",
        "10000032,50414267,,-1.0,,0.0,,,,,1.0,,,,,",
    )
    text(
        archive / "patients.csv.gz",
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        "10000032,F,52,2180,2014 - 2016,2180-09-09",
        "19999987,F,57,2145,2011 - 2013,",
    )
    text(
        archive / "admissions.csv.gz",
        "subject_id,hadm_id,admittime,insurance,race",
        "10000032,22595853,2180-05-06 22:23:00,Other,BLACK/CAPE VERDEAN",
        "10000032,2,2180-06-26,Medicaid,UNKNOWN",
        "10000032,3,2180-07-23,Medicaid,BLACK/AFRICAN AMERICAN",
        "19999987,4,2145-11-02,Other,HISPANIC/LATINO - DOMINICAN",
    )
    return archive  # fmt: skip


def test_mimic_cxr_jpg(mimic, imported):
    found = imported("mimic_cxr_jpg")
    one, two = found.patient(MIMIC_ONE), found.patient(MIMIC_TWO)
    assert one[["sex", "race", "ethnicity", "split"]].tolist() == ["F", "Black", "unknown", "val"]
    assert two[["sex", "race", "ethnicity", "split"]].tolist() == ["F", "unknown", "Hispanic", "test"]
    assert [one["age_years"], two["age_years"]] == [52, 57]
    assert found.label(MIMIC_ONE) == {"edema": 0, "no_finding": 1} and found.label(MIMIC_TWO) == {}
    assert [found.volume(p)["view_position"] for p in (MIMIC_ONE, MIMIC_TWO)] == ["PA", "LATERAL"]
    assert one["race_source"] == "mimic_cxr_jpg: race" and "combined question" in one["race_scheme"]
    assert set(found.labels["source"]) == {"mimic_cxr_jpg: Edema", "mimic_cxr_jpg: No Finding"}


def test_age_moves_with_the_study_and_races_that_differ_are_unknown(mimic, imported):
    text(mimic / "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id,subject_id,study_id,ViewPosition,StudyDate",
         f"{ONE},10000032,50414267,PA,21830506", f"{TWO},19999987,55368167,PA,")  # fmt: skip
    text(mimic / "admissions.csv.gz", "subject_id,race", "10000032,WHITE", "10000032,ASIAN - KOREAN")
    found = imported("mimic_cxr_jpg")
    assert found.patient(MIMIC_ONE)["age_years"] == 55 and math.isnan(found.patient(MIMIC_TWO)["age_years"])
    assert found.patient(MIMIC_ONE)[["race", "race_source"]].tolist() == ["unknown", "none"]
    assert "1 times rows about the same thing differ in race; it counts as unknown" in found.receipt.notes


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("admissions.csv.gz", ("subject_id,race", "10000032,MARTIAN"), "row 2: race: holds a code"),
        ("admissions.csv.gz", ("subject_id,ethnicity", "10000032,WHITE"), r"no column 'race' \(for race\)"),
        ("patients.csv.gz", ("subject_id,gender,anchor_age", "10000032,F,52"), r"no column 'anchor_year'"),
        ("mimic-cxr-2.0.0-split.csv.gz", ("dicom_id,split", f"{ONE},holdout"), "row 2: split: holds a code"),
        (
            "mimic-cxr-2.0.0-chexpert.csv.gz",
            ("study_id,Edema", "50414267,1.0"),
            "the table has no column 'Atelectasis'",
        ),
    ],
)
def test_mimic_tables_that_do_not_fit(mimic, imported, name, lines, message):
    text(mimic / name, *lines)
    with pytest.raises(UserError, match=message) as error:
        imported("mimic_cxr_jpg")
    assert "MARTIAN" not in str(error.value)


def test_a_damaged_table_is_named(mimic, imported):
    name = mimic / "admissions.csv.gz"
    name.write_bytes(name.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"admissions.csv.gz: damaged gzip"):
        imported("mimic_cxr_jpg")
