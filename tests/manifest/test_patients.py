"""Who a file belongs to, and that nobody is both trained on and judged on."""

import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medssl.manifest import Card, index, read_cohort
from medssl.manifest.identity import is_nobody

TABLE = {"table": "t.csv", "key": "file", "columns": {"file": "f", "patient_id": "who"}}
PEOPLE = st.sampled_from(["012", "12", "1", "Ä", "a b", "NA", "NO", "1e-4", "x,y", "-"])


def write_table(archive, owners):
    rows = [f'{name},"{who}"' for name, who in owners.items()]
    (archive / "t.csv").write_text("\n".join(["f,who", *rows]) + "\n", encoding="utf-8")


def splits_by_person(cohort, owners):
    """The splits in which each raw patient id has volumes, found through the paths and not through pseudonyms."""
    rows = read_cohort(cohort).volumes.merge(pd.read_parquet(cohort / "phi" / "sources.parquet"), on="volume_id")
    rows = rows[rows["status"] != "excluded"]
    return rows.groupby(rows["path"].map(owners))["split"].agg(set).to_dict()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(owners=st.lists(PEOPLE, min_size=2, max_size=9), seed=st.text("abc", max_size=2), cut=st.integers(1, 8))
def test_nobody_is_in_two_splits_and_newcomers_move_nobody(scan, owners, seed, cut):
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "a"
        owners = {f"{n}.nii": who for n, who in enumerate(owners)}
        for n, name in enumerate(owners):
            scan(archive / name, n)
        card = Card(name="x", split_seed=seed, splits={"train": 0.4, "val": 0.3, "test": 0.3}, **TABLE)
        write_table(archive, owners)
        index(archive, Path(folder) / "all", card=card)
        after = splits_by_person(Path(folder) / "all", owners)
        assert after.keys() == set(owners.values())
        assert all(len(splits) == 1 for splits in after.values())

        for name in list(owners)[cut:]:
            (archive / name).unlink()
        fewer = dict(list(owners.items())[:cut])
        write_table(archive, fewer)
        index(archive, Path(folder) / "fewer", card=card)
        before = splits_by_person(Path(folder) / "fewer", fewer)
        assert all(after[who] == splits for who, splits in before.items())


def test_dicom_without_a_patient_is_kept_by_study_and_only_trained_on(series, tmp_path):
    for n, who in enumerate(["", "ANON", "anonymous", "0000", "Real-7", "Real-8"]):
        series(tmp_path / "a" / str(n), who)
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", splits={"train": 0.0001, "test": 0.9999}))
    assert (receipt.volumes, receipt.patients, receipt.series_left_out) == (6, 6, {})
    assert receipt.splits == {"train": 4, "test": 2}
    assert "4 studies name no patient; each is kept as a patient of its own, in training only" in receipt.notes


def test_a_series_without_patient_or_study_stays_together(series, tmp_path):
    series(tmp_path / "a" / "one", "", StudyInstanceUID="")
    series(tmp_path / "a" / "two", "Real-7")
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert (receipt.volumes, receipt.patients, receipt.series_left_out) == (2, 2, {})


def test_an_id_like_our_own_names_for_nobody_is_a_patient(series, tmp_path):
    """The lot falls to "test" for nearly everybody; only those without a name are always trained on."""
    for n, who in enumerate(["study 1.2.3", "study", ""]):
        series(tmp_path / "a" / str(n), who)
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", splits={"train": 0.0001, "test": 0.9999}))
    assert receipt.splits == {"test": 2, "train": 1}


def copy_of(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy(source, target)


def test_the_same_image_of_two_patients_is_of_neither(scan, tmp_path):
    """Else the copy that comes first by its path would decide whose it is, and move it from one split to another."""
    card = Card(name="x", path=r"(?P<patient_id>p\d)/.*")
    scan(tmp_path / "a" / "p5" / "v.nii", 1)
    scan(tmp_path / "a" / "p6" / "w.nii", 2)
    assert index(tmp_path / "a", tmp_path / "c", card=card).volumes == 2
    copy_of(tmp_path / "a" / "p5" / "v.nii", tmp_path / "a" / "p1" / "v.nii")
    copy_of(tmp_path / "a" / "p6" / "w.nii", tmp_path / "a" / "p6" / "again.nii")
    receipt = index(tmp_path / "a", tmp_path / "c", card=card)
    assert receipt.volumes == 1
    assert receipt.series_left_out == {"PATIENT_CONFLICT": 2, "DUP_INSTANCE": 1}
    assert read_cohort(tmp_path / "c").volumes["volume_id"].is_unique


def test_a_copy_without_a_patient_takes_nothing_from_who_is_named(scan, tmp_path):
    card = Card(name="x", patient=r"^(p\d)")
    scan(tmp_path / "a" / "p5.nii", 1)
    index(tmp_path / "a", tmp_path / "c", card=card)
    before = read_cohort(tmp_path / "c").volumes.query("status == 'ok'")
    copy_of(tmp_path / "a" / "p5.nii", tmp_path / "a" / "copy.nii")
    assert index(tmp_path / "a", tmp_path / "c", card=card).series_left_out == {"DUP_INSTANCE": 1}
    after = read_cohort(tmp_path / "c").volumes.query("status == 'ok'")
    columns = ["volume_id", "patient_pid", "split"]
    assert before[columns].to_numpy().tolist() == after[columns].to_numpy().tolist()


def test_names_of_files_that_stand_for_patients_are_told(scan, tmp_path):
    for n in range(3):
        scan(tmp_path / "a" / f"sub{n}" / "T1.nii.gz", n)
    scan(tmp_path / "a" / "x.nii.gz", 9)
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert receipt.patients == 2
    assert receipt.notes[0].startswith("4 volumes name no patient; the name of the file counts as one.")
    assert receipt.notes[1].startswith("2 of these have the name of another, in another folder")
    told = index(tmp_path / "a", tmp_path / "d", card=Card(name="x", path=r"(?P<patient_id>[^/.]+).*"))
    assert told.patients == 4 and not told.notes


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ([{"PatientSex": "M"}, {"PatientSex": "F"}], "two sexes"),
        ([{"PatientAge": "040Y", "StudyDate": "20100101"}, {"PatientAge": "041Y", "StudyDate": "20150101"}],
         "two years of birth"),
        ([{"StudyDate": f"201001{n:02}"} for n in range(1, 5)], "more than 3 studies"),
        ([{"PatientAge": "040Y", "StudyDate": "20101231"}, {"PatientAge": "042Y", "StudyDate": "20110101"}], "no"),
        ([{"PatientSex": "O"}, {"PatientSex": "F"}, {}], "no"),
    ],
)  # fmt: skip
def test_an_id_of_several_people_is_only_trained_on(series, tmp_path, tags, why):
    for n, told in enumerate(tags):
        series(tmp_path / "a" / f"s{n}", "WARD-3", **told)
    series(tmp_path / "a" / "other", "P-1")
    card = Card(name="x", splits={"train": 0.0001, "test": 0.9999}, most_studies=3)
    receipt = index(tmp_path / "a", tmp_path / "c", card=card)
    cohort = read_cohort(tmp_path / "c")
    ward = cohort.patients[cohort.patients["n_volumes"] == len(tags)].iloc[0]
    assert (ward["suspect"], ward["split"]) == (why, "test" if why == "no" else "train")
    codes = cohort.volumes["reason"].value_counts().to_dict()
    assert codes == ({"": len(tags) + 1} if why == "no" else {"": 1, "PATIENT_ID_SUSPECT": len(tags)})
    assert receipt.volumes == len(tags) + 1
    assert any("seem to be of several people" in note for note in receipt.notes) == (why != "no")


def test_an_external_test_set_stays_one(series, tmp_path):
    series(tmp_path / "a" / "one", "ANON")
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", splits={"test": 1.0}))
    assert receipt.splits == {"test": 1}


def test_words_for_nobody_count_only_where_no_table_knows_them(series, tmp_path):
    assert [is_nobody(text) for text in ("", "0", "000", "Anon", "001", "10", "P1")] == [True] * 5 + [False] * 2
    for who in ("1", "2"):
        series(tmp_path / "a" / who, who)
    (tmp_path / "a" / "t.csv").write_text("id,ill\n1,1\n2,0\n")
    card = Card(name="x", table="t.csv", columns={"patient_id": "id"}, labels={"ill": "column ill"})
    receipt = index(tmp_path / "a", tmp_path / "c", card=card)
    assert receipt.labels == {"ill": 2}
    assert receipt.table_rows_without_image.count == receipt.volumes_without_table_row.count == 0


def test_a_study_that_two_patients_claim_is_left_out_whole(series, tmp_path):
    study = "1.2.3.4"
    for n, who in enumerate(["P-1", "P-2", "P-3"]):
        series(tmp_path / "a" / str(n), who, **({"StudyInstanceUID": study} if n < 2 else {}))
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert receipt.volumes == 1
    assert receipt.series_left_out == {"PATIENT_CONFLICT": 2}
    assert (receipt.patients, receipt.patients_left_out) == (1, 2)
    assert set(read_cohort(tmp_path / "c").patients["split"]) == {"train", "val", "test", "excluded"} & set(
        read_cohort(tmp_path / "c").volumes["split"]
    )
