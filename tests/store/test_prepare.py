"""From a cohort to a store: complete, resumable, atomic, and a bad volume does not stop the others."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.store import Preparation, case, open_store, prepare, shards
from medssl.store import prepare as make_store
from medssl.store.reasons import meaning
from medssl.units import Work
from medssl.volume import Volume

SETTINGS = Preparation(mr_spacing=(1.0, 1.0, 1.0))
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def ball_mask():
    grid = np.stack(np.meshgrid(*map(np.arange, (20, 24, 16)), indexing="ij"), -1)
    return (np.linalg.norm(grid - (10, 12, 8), axis=-1) < 5).astype(np.uint8)


def tree(folder):
    """What lies in a store, by path."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def reasons(store):
    return dict(zip(open_store(store).left_out["volume_id"], open_store(store).left_out["reason"], strict=True))


def test_a_cohort_becomes_a_store(clinic):
    first = clinic.scan("a")
    clinic.mask(ball_mask())
    second = clinic.scan("b", split="test", modality="CT")
    receipt = prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.reused, receipt.masks, receipt.reasons) == (2, 0, 1, {})
    store = open_store(clinic.store)
    assert sorted(store.volumes["volume_id"]) == sorted([first, second])
    image, mask = store.read(first), store.read(first, "mask")
    assert (image.dtype, mask.dtype) == (np.float16, np.uint8)
    assert image.shape == mask.shape == (1, 20, 24, 32)
    assert store.shape(first) == (20, 24, 32)
    there = Volume(image, store.affine(first))
    assert there.orientation == "RAS"
    assert there.spacing == pytest.approx((1, 1, 1))
    before = Volume(ball_mask()[None], AFFINE)
    middle = [v.world(np.argwhere(v.voxels[0])).mean(0) for v in (before, Volume(mask, there.affine))]
    assert np.abs(middle[0] - middle[1]).max() < 0.5
    assert image[mask == 1].mean() > image[mask == 0].mean() + 2
    row = store.volumes.set_index("volume_id").loc[first]
    assert row["mask_labels"].tolist() == [1]
    assert (row["array_crc32c"], row["mask_crc32c"]) == (shards.checksum(image), shards.checksum(mask))
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["p0_5"] < row["mean"] < row["p99_5"]
    assert open_store(clinic.store).read(second).min() >= -1


def test_a_second_run_does_nothing_and_a_lost_volume_is_made_again(clinic):
    ids = [clinic.scan(name) for name in "abc"]
    clinic.write()
    prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    before = tree(clinic.store)
    times = [(clinic.store / "arrays" / i / "row.json").stat().st_mtime_ns for i in ids]
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 3
    assert times == [(clinic.store / "arrays" / i / "row.json").stat().st_mtime_ns for i in ids]
    (clinic.store / "arrays" / ids[0] / "row.json").unlink()
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 2
    assert tree(clinic.store) == before


def test_other_settings_make_only_what_they_concern_again(clinic):
    mr, ct = clinic.scan("a"), clinic.scan("b", modality="CT")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    hashes = open_store(clinic.store).volumes.set_index("volume_id")["preparation_hash"]
    receipt = prepare(clinic.cohort, clinic.store, settings=Preparation(mr_spacing=(2.0, 2.0, 2.0)))
    assert receipt.reused == 1
    store = open_store(clinic.store)
    assert store.shape(mr) == (10, 12, 16)
    again = store.volumes.set_index("volume_id")["preparation_hash"]
    assert (again[ct], again[mr] != hashes[mr]) == (hashes[ct], True)


def test_a_store_whose_settings_change_is_none_until_it_is_done(clinic, monkeypatch):
    clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    monkeypatch.setattr(case, "write_array", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(clinic.cohort, clinic.store, settings=Preparation(mr_spacing=(2.0, 2.0, 2.0)))
    with pytest.raises(UserError, match="unfinished store"):
        open_store(clinic.store)


def test_a_store_that_grows_stays_open_meanwhile(clinic, monkeypatch):
    first = clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    clinic.scan("b")
    monkeypatch.setattr(case, "write_array", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert open_store(clinic.store).volumes["volume_id"].tolist() == [first]


def stop(folder, array):
    raise KeyboardInterrupt


def test_another_mask_makes_the_volume_again(clinic):
    volume = clinic.scan("a")
    clinic.mask(ball_mask())
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    clinic.mask(ball_mask() * 3)
    assert prepare(clinic.write(), clinic.store, settings=SETTINGS).reused == 0
    assert set(np.unique(open_store(clinic.store).read(volume, "mask"))) == {0, 3}


def test_splits_follow_the_cohort_without_preparing_again(clinic):
    clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    clinic.rows[0]["split"] = "val"
    assert prepare(clinic.write(), clinic.store, settings=SETTINGS).reused == 1
    assert open_store(clinic.store).volumes["split"].tolist() == ["val"]


def test_modalities_roles_and_status_select(clinic):
    clinic.scan("a", role="t2w")
    clinic.scan("b", role="adc")
    clinic.scan("c", modality="CT")
    clinic.scan("d", status="excluded", reason="GAP")
    clinic.scan("e", modality="PT")
    cohort = clinic.write()
    assert prepare(cohort, clinic.store, settings=SETTINGS).prepared == 3
    assert prepare(cohort, clinic.store, settings=Preparation(roles=("t2w",))).prepared == 2
    assert prepare(cohort, clinic.store, settings=Preparation(modalities=("MR",), roles=("adc",))).prepared == 1
    assert prepare(cohort, clinic.store, settings=Preparation(modalities=("OPT",))).prepared == 0
    assert open_store(clinic.store).rows().empty


def test_bad_volumes_have_a_reason_and_the_others_are_made(clinic):
    good = clinic.scan("good")
    wanted = {
        clinic.scan("flat", voxels=np.full((8, 8, 8), 7, np.int16)): "CONSTANT_IMAGE",
        clinic.scan("nan", voxels=np.full((8, 8, 8), np.nan, np.float32)): "NOT_FINITE",
        clinic.scan("changed", shape=[20, 24, 17]): "SOURCE_CHANGED",
        clinic.scan("gone"): "SOURCE_MISSING",
        clinic.scan("cut"): None,
    }
    clinic.files[-1]["crc32c"] = None  # not read whole when it was indexed: the damage is its reader's to find
    (clinic.archive / "gone.nii.gz").unlink()
    content = (clinic.archive / "cut.nii.gz").read_bytes()
    (clinic.archive / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    receipt = prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert receipt.prepared == 1
    assert open_store(clinic.store).volumes["volume_id"].tolist() == [good]
    found = reasons(clinic.store)
    assert set(found) == set(wanted)
    assert all(found[i] == code or (code is None and found[i]) for i, code in wanted.items())
    assert sum(receipt.reasons.values()) == 5
    for code in set(wanted.values()) - {None}:
        assert f"{code}: 1. {meaning(code)}" in str(receipt)
    assert not any((clinic.store / "arrays" / i).exists() for i in wanted)


def test_a_bad_mask_leaves_the_image(clinic):
    ids = {}
    for name, mask, affine in (
        ("MASK_MISPLACED", ball_mask(), np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 900),
        ("MASK_VALUES", ball_mask() * 0.3, AFFINE),
        ("MASK_MISSING", ball_mask(), AFFINE),
        ("MASK_UNREADABLE", ball_mask(), AFFINE),
    ):
        ids[clinic.scan(name)] = name
        clinic.mask(mask, affine)
    (clinic.archive / "mask_MASK_MISSING.nii.gz").unlink()
    (clinic.archive / "mask_MASK_UNREADABLE.nii.gz").write_bytes(b"not an image")
    receipt = prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.masks) == (4, 0)
    store = open_store(clinic.store)
    found = store.volumes.set_index("volume_id")
    assert found["reason"].to_dict() == ids
    assert set(found["status"]) == {"warn"}
    assert not found["has_mask"].any()
    assert store.rows(has_mask=True).empty


@pytest.mark.parametrize("modality", ["OPT", "DX"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_8_bits_declare_their_range_and_16_are_observed(clinic, modality, dtype):
    voxels = np.linspace(51, 204, 20 * 24 * 16).reshape(20, 24, 16).astype(dtype)
    volume = clinic.scan("a", modality=modality, voxels=voxels[:, :, :1] if modality == "DX" else voxels)
    prepare(clinic.write(), clinic.store, settings=Preparation(oct_spacing=(1.0, 1.0, 2.0), xray_pixels=24))
    store = open_store(clinic.store)
    there = store.read(volume).astype(np.float32)
    inside = there[there > 0]
    low, high = (0.2, 0.8) if dtype == np.uint8 else (0.0, 1.0)
    assert (inside.min(), inside.max()) == pytest.approx((low, high), abs=0.02)
    assert store.volumes["valid_fraction"].tolist() == pytest.approx([20 / 24 if modality == "DX" else 1.0])


def test_a_radiograph_that_its_reader_windowed_is_not_stretched(clinic):
    voxels = np.linspace(0.25, 0.5, 32 * 32, dtype=np.float32).reshape(32, 32, 1)
    volume = clinic.scan("a", modality="CR", voxels=voxels)
    prepare(clinic.write(), clinic.store, settings=Preparation(xray_pixels=32))
    there = open_store(clinic.store).read(volume)
    assert (there.min(), there.max()) == pytest.approx((0.25, 0.5), abs=1e-3)


def test_a_warning_of_the_index_stays(clinic):
    clinic.scan("a", status="warn", reason="HU_SUSPECT")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert open_store(clinic.store).volumes[["status", "reason"]].to_numpy().tolist() == [["warn", "HU_SUSPECT"]]


@pytest.mark.parametrize("place", ["image", "mask", "row"])
def test_a_full_disk_stops_it_and_leaves_nothing_half_written(clinic, monkeypatch, place):
    ids = [clinic.scan(name) for name in "ab"]
    clinic.mask(ball_mask())
    written = []

    def full(path, content):
        written.append(path)
        if place in str(path) and ids[1] in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real[name_of(content)](path, content)

    def name_of(content):
        return "array" if isinstance(content, np.ndarray) else "json"

    real = {"array": case.write_array, "json": case.write_json}
    monkeypatch.setattr(case, "write_array", full)
    monkeypatch.setattr(case, "write_json", full)
    clinic.rows.sort(key=lambda row: row["volume_id"] == ids[1])
    if sorted(ids)[0] == ids[1]:
        ids[0], ids[1] = ids[1], ids[0]
    place = "row" if place == "mask" and not clinic.files[ids.index(ids[1])]["mask_path"] else place
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert ids[1] in caught.value.filename
    assert sorted(p.name for p in (clinic.store / "arrays").iterdir()) == [ids[0]]
    with pytest.raises(UserError, match="unfinished store; run medssl prepare"):
        open_store(clinic.store)
    monkeypatch.undo()
    receipt = prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.reused) == (2, 1)


def test_two_processes_make_the_same_store(clinic):
    for name in "abc":
        clinic.scan(name)
    clinic.scan("gone")
    (clinic.archive / "gone.nii.gz").unlink()
    cohort = clinic.write()
    other = clinic.store.with_name("other")
    one, two = (
        prepare(cohort, where, settings=SETTINGS, work=Work(workers=n)) for where, n in ((clinic.store, 0), (other, 2))
    )
    assert one == two
    assert tree(clinic.store) == tree(other)


def test_a_killed_run_goes_on_and_ends_the_same(clinic):
    for name in "abcd":
        clinic.scan(name)
    cohort = clinic.write()
    code = (
        "import os, sys; from medssl.store import prepare, case, Preparation; from medssl.store import shards\n"
        "real, left = shards.flush, [int(sys.argv[3])]\n"
        "def flush(path):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os._exit(9)\n"
        "    real(path)\n"
        "shards.flush = flush\n"
        "prepare(sys.argv[1], sys.argv[2], settings=Preparation(mr_spacing=(1.0, 1.0, 1.0)))"
    )
    where = clinic.store.with_name("killed")
    for flushes in (3, 9, 5, 13):  # ten a volume: the last two around its own rename
        done = subprocess.run([sys.executable, "-c", code, str(cohort), str(where), str(flushes)], check=False)
        assert done.returncode == 9
        assert not (where / "store.json").exists()
    assert prepare(cohort, where, settings=SETTINGS).reused == 2
    prepare(cohort, clinic.store, settings=SETTINGS)
    assert tree(where) == tree(clinic.store)
    assert not list((where / "arrays").glob(".*"))


def test_only_one_writes(clinic):
    import fcntl

    clinic.scan("a")
    cohort = clinic.write()
    (clinic.store / "arrays").mkdir(parents=True)
    with (clinic.store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another medssl prepare"):
            prepare(cohort, clinic.store, settings=SETTINGS)


def test_mistakes_are_said(clinic, tmp_path):
    clinic.scan("a")
    cohort = clinic.write()
    with pytest.raises(UserError):
        prepare(tmp_path / "nowhere", clinic.store)
    assert not clinic.store.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        prepare(cohort, tmp_path / "file")
    sources = pd.read_parquet(cohort / "phi" / "sources.parquet")
    sources[:0].to_parquet(cohort / "phi" / "sources.parquet")
    with pytest.raises(UserError, match="has no source"):
        prepare(cohort, clinic.store)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modalities": ("US",)},
        {"modalities": ()},
        {"mr_spacing": (1.0, 0.0, 1.0)},
        {"oct_spacing": (float("nan"), 1.0, 1.0)},
        {"xray_pixels": 0},
        {"ct_window": (5.0, 5.0)},
        {"clip_percentiles": (99.0, 1.0)},
        {"mr_orientation": "RAX"},
    ],
    ids=str,
)
def test_settings_are_checked_when_made(wrong):
    with pytest.raises(UserError, match=f"prepare.{next(iter(wrong))}"):
        Preparation(**wrong)


def test_a_recipe_section_becomes_settings():
    from medssl.recipe import make

    section = {"modalities": ["MR"], "mr_spacing": ["1", "1", "1.5"], "xray_pixels": "128", "roles": []}
    made = make(Preparation, section, "prepare")
    assert (made.modalities, made.mr_spacing, made.xray_pixels) == (("MR",), (1.0, 1.0, 1.5), 128)


def test_nothing_of_the_source_is_in_the_store(clinic):
    """Paths and file names may hold names of patients; no byte of the store may."""
    clinic.scan("SECRET^NAME")
    clinic.mask(ball_mask() * 0.5)
    clinic.scan("GONE^NAME", patient_pid="pz", series_pid="sz", study_pid="tz")
    clinic.rows[0] |= {"patient_pid": "pa", "series_pid": "sa", "study_pid": "ta"}
    (clinic.archive / "GONE^NAME.nii.gz").write_bytes(b"broken")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    for path, content in tree(clinic.store).items():
        assert b"NAME" not in content, path
        assert b"NAME" not in bytes(path)
    assert json.loads((clinic.store / "store.json").read_text())["volumes"] == 1
    assert os.fspath(clinic.archive).encode() not in b"".join(tree(clinic.store).values())
    assert make_store is prepare
