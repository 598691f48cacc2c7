"""Harvard-GF, Harvard-GDP, FairVision and LAG in their own layouts."""

import math

import numpy as np
import pytest

from medssl.errors import UserError

from .conftest import npz, picture, text

GF = {"glaucoma": 1, "md": -3.2, "tds": np.zeros(52), "age": 61.5, "male": 0, "race": 1, "hispanic": 0}


def test_harvard_gf(archive, imported):
    npz(archive / "Training" / "data_0001.npz", **GF)
    npz(archive / "Validation" / "data_2101.npz", **GF | {"male": 1, "race": 2, "hispanic": -1, "glaucoma": 0})
    npz(archive / "Test" / "data_2401.npz", **GF | {"race": np.int64(0), "age": np.float32(93)})
    npz(archive / "Test" / "data_2402.npz", **GF | {"race": -1, "hispanic": 1})
    found = imported("harvard_gf")
    one, two, three, four = (
        found.patient(p)
        for p in ("Training/data_0001.npz", "Validation/data_2101.npz", "Test/data_2401.npz", "Test/data_2402.npz")
    )
    assert [p["split"] for p in (one, two, three, four)] == ["train", "val", "test", "test"]
    assert [p["race"] for p in (one, two, three, four)] == ["Black", "White", "Asian", "unknown"]
    assert [p["sex"] for p in (one, two, three, four)] == ["F", "M", "F", "F"]
    assert [p["ethnicity"] for p in (one, two, three, four)] == ["Non-Hispanic", "unknown", "Non-Hispanic", "Hispanic"]
    assert one["age_years"] == 61.5 and three["age_years"] == 90
    assert (one["sex_source"], one["race_source"]) == ("harvard_gf: male", "harvard_gf: race")
    assert (four["race_source"], four["race_scheme"]) == ("none", "none")
    assert one["race_scheme"] == "Harvard-GF: Asian, Black, White"
    assert found.label("Training/data_0001.npz") == {"glaucoma": 1.0}
    assert found.label("Validation/data_2101.npz") == {"glaucoma": 0.0}
    assert set(found.labels["source"]) == {"harvard_gf: glaucoma"}
    assert found.volume("Test/data_2401.npz")["modality"] == "OPT"
    assert len(found.people) == 4


@pytest.mark.parametrize("key", ["race", "male", "glaucoma"])
def test_a_missing_key_of_an_npz_is_named(archive, imported, key):
    npz(archive / "Training" / "data_0001.npz", **{name: value for name, value in GF.items() if name != key})
    with pytest.raises(UserError, match=f"harvard_gf: nothing is called '{key}'.*there is: .*md"):
        imported("harvard_gf")


@pytest.mark.parametrize(
    ("member", "message"),
    [({"race": 7}, r"race: holds a code that .* values.race does not list \(0, 1, 2, -1\)"),
     ({"male": 2}, "sex: holds a code"), ({"glaucoma": 0.5}, "glaucoma: holds a code")],
)  # fmt: skip
def test_a_code_that_nobody_explained_stops_the_import(archive, imported, member, message):
    npz(archive / "Training" / "data_0001.npz", **GF | member)
    with pytest.raises(UserError, match=message) as error:
        imported("harvard_gf")
    assert "data_0001" not in str(error.value)


def test_one_id_in_two_official_splits_is_refused(archive, imported):
    for folder in ("Training", "Test"):
        npz(archive / folder / "data_0001.npz", **GF)
    with pytest.raises(UserError, match="1 patients are in two splits"):
        imported("harvard_gf")


def test_a_folder_that_is_no_split_is_refused(archive, imported):
    npz(archive / "Holdout" / "data_0001.npz", **GF)
    with pytest.raises(UserError, match="split: holds a code"):
        imported("harvard_gf")


def test_harvard_gdp(archive, imported):
    common = {"rnflt": np.arange(225 * 225.0).reshape(225, 225), "md": -1.0, "tds": np.zeros(52), "age": 55, "male": 1}
    folder = archive / "rnflt_maps"
    npz(folder / "data_0001.npz", **common, race=2, hispanic=0, glaucoma=1, progression=[1, 0, 0, 1, 1, 0])
    common["rnflt"] = common["rnflt"] + 1
    npz(folder / "data_0777.npz", **common, race=0, hispanic=0, glaucoma=0, progression=np.full(6, math.nan))
    found = imported("harvard_gdp")
    assert found.label("rnflt_maps/data_0001.npz") == {
        "glaucoma": 1.0, "progression_md": 1.0, "progression_vfi": 0.0, "progression_td": 0.0, "progression_md_fast": 1.0,
        "progression_md_fast_no_p": 1.0, "progression_td_no_p": 0.0}  # fmt: skip
    assert found.label("rnflt_maps/data_0777.npz") == {"glaucoma": 0.0}
    row = found.volume("rnflt_maps/data_0001.npz")
    assert row["shape"].tolist() == [224, 224, 1] and row["spacing_source"] == "nominal"
    assert found.patient("rnflt_maps/data_0777.npz")[["sex", "race", "age_years", "md"]].tolist() == [
        "M", "Asian", 55, "-1.0"]  # fmt: skip


def test_the_map_keeps_its_columns_and_rows(archive):
    from medssl.archive.npz import volume as read_npz

    npz(archive / "data_0001.npz", rnflt=np.arange(6.0).reshape(2, 3))
    voxels = read_npz(archive / "data_0001.npz").voxels
    assert voxels.shape == (1, 3, 2, 1)
    assert voxels[0, 2, 1, 0] == 5 and voxels[0, 2, 0, 0] == 2


FAIR = {"race": 1, "male": 1, "hispanic": 0, "language": 1, "maritalstatus": 0}
SUMMARY = "filename,age,gender,race,ethnicity,language,maritalstatus,md,glaucoma,use"


@pytest.mark.parametrize(
    ("disease", "member", "label"),
    [("amd", {"amd_condition": "early.dry"}, {"amd": 1.0}),
     ("amd", {"dr_subtype": "wet.amd.inactive.scar"}, {"amd": 1.0}),
     ("amd", {"amd_condition": "not.in.icd.table"}, {"amd": 0.0}),
     ("dr", {"dr_subtype": "moderate.npdr"}, {"vision_threatening_dr": 0.0}),
     ("dr", {"dr_subtype": "pdr"}, {"vision_threatening_dr": 1.0}),
     ("glaucoma", {"glaucoma": 1}, {"glaucoma": 1.0})],
)  # fmt: skip
def test_fairvision(archive, imported, disease, member, label):
    npz(archive / "Training" / "data_00001.npz", **FAIR | member)
    npz(archive / "Test" / "data_07001.npz", **FAIR | member | {"race": 0})
    picture(archive / "Training" / "slo_fundus_00001.jpg")
    row = "male,black,non-hispanic,spanish,single,-1.5,yes,training"
    text(archive / "ReadMe" / f"data_summary_{disease}.csv", SUMMARY, f"data_00001.npz,72.37,{row}")
    found = imported(f"harvard_fairvision_{disease}")
    assert found.label("Training/data_00001.npz") == label
    one, two = found.patient("Training/data_00001.npz"), found.patient("Test/data_07001.npz")
    assert one[["sex", "race", "ethnicity", "language"]].tolist() == ["M", "Black", "Non-Hispanic", "Spanish"]
    assert one["age_years"] == 72.37 and math.isnan(two["age_years"]) and two["race"] == "Asian"
    assert [one["split"], two["split"]] == ["train", "test"]
    assert found.receipt.files == 2


def test_fairvision_without_its_summary_or_with_an_unknown_word(archive, imported):
    npz(archive / "Training" / "data_00001.npz", **FAIR, dr_subtype="pdr")
    with pytest.raises(UserError, match=r"data_summary_dr.csv: the card's table is not there"):
        imported("harvard_fairvision_dr")
    text(
        archive / "data_summary_dr.csv",
        SUMMARY,
        "data_00001.npz,72,female,martian,hispanic,english,single,1,no,training",
    )
    with pytest.raises(UserError, match=r"data_summary_dr.csv: row 2: race: holds a code") as error:
        imported("harvard_fairvision_dr")
    assert "martian" not in str(error.value)


def test_lag(archive, imported):
    for name in ("suspicious_glaucoma/image/0001", "non_glaucoma/image/3001", "non_glaucoma/attention_map/3001"):
        picture(archive / "LAG_database_part_1" / f"{name}.jpg")
    picture(archive / "LAG_database_part_1" / "non_glaucoma" / "image" / "3002.jpg", colour=True)
    picture(archive / "other" / "image" / "3003.jpg")
    found = imported("lag")
    assert found.label("LAG_database_part_1/suspicious_glaucoma/image/0001.jpg") == {"glaucoma": 1.0}
    assert found.label("LAG_database_part_1/non_glaucoma/image/3001.jpg") == {"glaucoma": 0.0}
    assert found.receipt.files_left_out == {"NOT_IN_CARD": 1}
    assert set(found.volumes["modality"]) == {"OP"} and len(found.people) == 3
    assert set(found.labels["source"]) == {"lag: group"}
