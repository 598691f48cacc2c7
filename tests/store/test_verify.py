"""Planted leaks and planted damage are found, each by its name; a sound store passes."""

import errno
import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.manifest import Card, index
from medssl.manifest.audit import Finding
from medssl.store import Preparation, prepare, verify
from tests.store.conftest import ball, sign

SETTINGS = Preparation(mr_spacing=(1.0, 1.0, 1.0))


def scene(seed, shape=(20, 24, 16)):
    """Smooth blobs that differ from seed to seed, as anatomies do."""
    from scipy.ndimage import gaussian_filter

    return (2000 * gaussian_filter(np.random.default_rng(seed).normal(0, 1, shape), 2)).astype(np.int16)


@pytest.fixture
def two(clinic):
    """Writes two volumes, in train and in test, whose rows and voxels a test decides; gives the findings by code."""

    def write(train=None, test=None, voxels=(None, None)):
        for name, told, image in (("a", train, voxels[0]), ("b", test, voxels[1])):
            image = scene(ord(name)) if image is None else image
            clinic.scan(name, voxels=image, **{"split": "train" if name == "a" else "test", **(told or {})})
        cohort = clinic.write()
        people = pd.read_parquet(cohort / "patients.parquet")
        splits = {row["patient_pid"]: row["split"] for row in reversed(clinic.rows)}
        people.assign(split=people["patient_pid"].map(splits)).to_parquet(cohort / "patients.parquet")
        labels = pd.read_parquet(cohort / "labels.parquet")
        labels.to_parquet(cohort / "labels.parquet")
        prepare(cohort, clinic.store, settings=SETTINGS)
        verdict = verify(clinic.store)
        return {finding.code for finding in (*verdict.leaks, *verdict.faults, *verdict.damage)}

    return write


def test_a_sound_store_passes(two):
    assert two() == set()


@pytest.mark.parametrize(("column", "code"), [("study_pid", "STUDY"), ("series_pid", "SERIES"), ("frame_pid", "FRAME")])
def test_an_id_on_both_sides_is_a_leak(two, column, code):
    assert two({column: "same"}, {column: "same"}) == {code}


@pytest.mark.parametrize("column", ["study_pid", "series_pid", "frame_pid"])
def test_a_blank_id_is_nobodys(two, column):
    assert two({column: ""}, {column: ""}) == set()


def test_a_patient_on_both_sides_is_a_leak(two):
    assert two({"patient_pid": "p"}, {"patient_pid": "p"}) == {"PATIENT", "SPLIT_DIFFERS"}


def test_the_same_voxels_on_both_sides_are_a_leak(two):
    assert two(voxels=(scene(1), scene(1))) == {"SAME_VOXELS"}


def test_the_same_voxels_on_one_side_are_none(two):
    assert two(test={"split": "train"}, voxels=(scene(1), scene(1))) == set()


def test_a_copy_scaled_and_noisy_is_a_leak(two):
    from scipy.ndimage import zoom

    copy = zoom(scene(1).astype(np.float32), 0.95, order=1)
    copy += np.random.default_rng(3).normal(0, 0.05 * copy.std(), copy.shape)
    assert two(voxels=(scene(1), copy.astype(np.int16))) == {"NEAR_DUPLICATE"}


@pytest.mark.parametrize(
    ("column", "value", "code"),
    [
        ("split", "trian", "SPLIT_WORD"),
        ("affine", [1.0] * 15 + [float("nan")], "AFFINE"),
        ("affine", [0.0] * 16, "AFFINE"),
        ("affine", [1.0] * 3, "AFFINE"),
        ("spacing", [0.001, 1.0, 1.0], "SPACING"),
        ("spacing", [1.0, 1.0, 3000.0], "SPACING"),
        ("split", "val", "SPLIT_DIFFERS"),
    ],
)
def test_a_table_that_cannot_be_true(two, clinic, column, value, code):
    assert two() == set()
    for name in ("volumes", "patients") if column == "split" and code == "SPLIT_WORD" else ("volumes",):
        table = pd.read_parquet(clinic.store / f"{name}.parquet")
        table.at[0, column] = value
        if name == "patients":
            table[column] = value
        table.to_parquet(clinic.store / f"{name}.parquet")
    sign(clinic.store)
    found = {finding.code for finding in verify(clinic.store).faults}
    assert found == ({code, "SPLIT_DIFFERS"} if code == "SPLIT_WORD" else {code})


def test_rows_about_nothing(clinic):
    name = clinic.scan("a", voxels=scene(1))
    cohort = clinic.write()
    prepare(cohort, clinic.store, settings=SETTINGS)
    volumes = pd.read_parquet(clinic.store / "volumes.parquet")
    people = pd.read_parquet(clinic.store / "patients.parquet")
    labels = pd.read_parquet(clinic.store / "labels.parquet")
    pd.concat([volumes, volumes]).to_parquet(clinic.store / "volumes.parquet")
    people.assign(patient_pid="somebody").to_parquet(clinic.store / "patients.parquet")
    labels.assign(volume_id="nothing").to_parquet(clinic.store / "labels.parquet")
    sign(clinic.store)
    found = {(finding.code, finding.things[0]) for finding in verify(clinic.store).faults}
    assert found == {("ID_TWICE", name), ("PATIENT_OF_NOBODY", name), ("LABEL_OF_NOTHING", "nothing")}


def test_one_flipped_bit_anywhere_in_a_shard_is_found(clinic):
    clinic.scan("a", voxels=scene(1))
    clinic.mask((ball() > 200).astype(np.uint8))
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert not verify(clinic.store).damage
    rng = np.random.default_rng(0)
    shards = sorted(path for path in clinic.store.rglob("c/0/0/0/0"))
    assert len(shards) == 2
    for path in shards * 20:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert [finding.code for finding in verify(clinic.store).damage] == ["ARRAY_DAMAGED"]
        path.write_bytes(content)


def test_arrays_without_a_row_and_rows_without_arrays(clinic):
    first, second, third = (clinic.scan(name, voxels=scene(n)) for n, name in enumerate("abc"))
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    arrays = clinic.store / "arrays"
    shutil.copytree(arrays / first, arrays / "orphan")
    (arrays / second / "row.json").unlink()
    shutil.rmtree(arrays / third / "image")
    shutil.copytree(arrays / first / "image", arrays / third / "image")
    found = {(finding.code, finding.things[0]) for finding in verify(clinic.store).damage}
    assert found == {("ORPHAN", "orphan"), ("ROW_DAMAGED", second), ("ARRAY_OF_ANOTHER_RUN", third)}


def a_folder(path):
    path.unlink()
    path.mkdir()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_text(path):
    path.write_bytes(b"\xff\xfe[[[")


def a_list(path):
    path.write_text("[]")


def gone(path):
    path.unlink()


@pytest.mark.parametrize("harm", [gone, half, a_folder, not_text, a_list])
@pytest.mark.parametrize(
    ("place", "code"),
    [("row.json", "ROW_DAMAGED"), ("image/zarr.json", "ARRAY_DAMAGED"), ("mask/c/0/0/0/0", "ARRAY_DAMAGED")],
)
def test_harm_is_a_finding_and_mended_by_preparing_again(clinic, place, code, harm):
    first, _ = clinic.scan("a", voxels=scene(1)), clinic.mask((ball() > 200).astype(np.uint8))
    clinic.scan("b", voxels=scene(2))
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    before = content(clinic.store)
    harm(clinic.store / "arrays" / first / place)
    assert [(found.code, found.things) for found in verify(clinic.store).damage] == [(code, (first,))]
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 1
    assert verify(clinic.store).damage == ()
    assert content(clinic.store) == before


def test_the_array_of_another_run_is_mended_by_preparing_again(clinic):
    ids = [clinic.scan(name, voxels=scene(n)) for n, name in enumerate("ab")]
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    before = content(clinic.store)
    one, other = (clinic.store / "arrays" / name / "image" for name in ids)
    shutil.rmtree(one)
    shutil.copytree(other, one)
    assert [found.code for found in verify(clinic.store).damage] == ["ARRAY_OF_ANOTHER_RUN"]
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 1
    assert content(clinic.store) == before


def test_a_disk_that_fails_while_verifying_is_no_damage(clinic, monkeypatch):
    volume = clinic.scan("a", voxels=scene(1))
    prepare(clinic.write(), clinic.store, settings=SETTINGS)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.pread", fail)
    assert verify(clinic.store).damage == (Finding("ARRAY_UNREADABLE", (volume,), "EIO"),)


def content(store):
    """What lies in a store, by path."""
    return {p.relative_to(store): p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != ".lock"}


def test_pretraining_on_those_who_are_judged(clinic, tmp_path):
    """The same person, and a copy under another name, in two archives."""
    clinic.scan("a", voxels=scene(1), split="train")
    clinic.scan("b", voxels=scene(2), split="train")
    clinic.scan("c", voxels=scene(3), split="test")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    (tmp_path / "task").mkdir()
    task = type(clinic)(tmp_path / "task")
    task.scan("a", voxels=scene(4), split="test")
    task.scan("copy", voxels=scene(2) + 1, split="val")
    task.scan("c", voxels=scene(5), split="test")
    task.scan("learned", voxels=scene(1), split="train")
    prepare(task.write(), task.store, settings=SETTINGS)
    verdict = verify(clinic.store, against=task.store)
    assert {finding.code for finding in verdict.leaks} == {"PATIENT", "STUDY", "SERIES", "SAME_VOXELS"}
    assert {finding.things for finding in verdict.leaks if finding.code == "PATIENT"} == {("pa",)}
    assert verdict.notes == ()


def test_a_cohort_is_verified_too(tmp_path):
    for n in range(5):
        (tmp_path / "a").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(scene(n), np.eye(4)), tmp_path / "a" / f"{n}.nii.gz")
    index(tmp_path / "a", tmp_path / "c", card=Card(name="x", modality="MR"))
    verdict = verify(tmp_path / "c")
    assert (verdict.checked, verdict.leaks, verdict.faults, verdict.damage) == (5, (), (), ())
    sources = pd.read_parquet(tmp_path / "c" / "phi" / "sources.parquet")
    sources.loc[0, "path"] = "../../etc/passwd"
    sources.to_parquet(tmp_path / "c" / "phi" / "sources.parquet")
    told = json.loads((tmp_path / "c" / "receipt.json").read_text())
    (tmp_path / "c" / "receipt.json").write_text(json.dumps(told | {"tables": {}}))
    assert [finding.code for finding in verify(tmp_path / "c").faults] == ["PATH_LEAVES"]
    with pytest.raises(UserError, match="neither a cohort nor a store"):
        verify(tmp_path / "a")


def test_the_exit_code_tells_a_leak_from_damage(clinic, capsys, tmp_path):
    clinic.scan("a", voxels=scene(1), split="train")
    second = clinic.scan("b", voxels=scene(1), split="test")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)

    def code(*arguments):
        with pytest.raises(SystemExit) as left:
            main(["verify", *map(str, arguments)])
        return left.value.code

    assert code(clinic.store, "-o", tmp_path / "findings.json") == 4
    assert "LEAK: 1 x SAME_VOXELS" in capsys.readouterr().out
    assert json.loads((tmp_path / "findings.json").read_text())["leaks"][0]["code"] == "SAME_VOXELS"
    shutil.rmtree(clinic.store / "arrays" / second / "image")
    assert code(clinic.store) == 5
    assert "damaged: 1 x ARRAY_DAMAGED" in capsys.readouterr().out
