"""Several volumes in one file: each has its rows, its id and its own voxels, from the index to the store."""

import numpy as np
import pandas as pd
import pytest

from medssl.archive import open_volume
from medssl.manifest import index, read_cohort
from medssl.manifest.thumbnails import draw
from medssl.progress import silent
from medssl.store import Preparation, open_store, prepare
from medssl.units import HERE, Work

B_VALUES = (0, 1000)
SHAPE = (12, 16, 20)  # slices, rows, columns


def diffusion(b):
    return {"MRDiffusionSequence": [{"DiffusionBValue": float(b)}]}


@pytest.fixture
def archive(tmp_path, write_frames):
    """A folder with an enhanced MR of two b-values in scrambled order; the voxels of each."""
    rng = np.random.default_rng(4)
    frames = [(b, k) for b in B_VALUES for k in range(SHAPE[0])]
    frames = [frames[n] for n in rng.permutation(len(frames))]
    pixels = rng.integers(1, 900, (len(frames), *SHAPE[1:])).astype(np.int16)
    shared = {"PixelMeasuresSequence": [{"PixelSpacing": [1, 1]}]}
    write_frames(
        tmp_path / "archive" / "dwi.dcm", pixels, "enhanced MR", [(0, 0, float(k)) for _, k in frames],
        each=[diffusion(b) for b, _ in frames], shared=shared,
    )  # fmt: skip
    return tmp_path / "archive", {
        b: pixels[[frames.index((b, k)) for k in range(SHAPE[0])]].transpose(2, 1, 0) for b in B_VALUES
    }


def chosen(cohort):
    """The frames of each volume, by id."""
    sources = pd.read_parquet(cohort / "phi" / "sources.parquet")
    return {row["volume_id"]: tuple(row["frames"]) for row in sources.to_dict("records")}


@pytest.mark.parametrize("workers", [1, 2])
def test_two_b_values_in_one_file_are_two_volumes_of_the_store(tmp_path, archive, workers):
    folder, values = archive
    index(folder, tmp_path / "cohort")
    volumes = read_cohort(tmp_path / "cohort").volumes
    assert volumes[["status", "split_by", "n_sources"]].to_numpy().tolist() == [["ok", "b_value", 1]] * 2
    assert volumes["volume_id"].is_unique
    assert sorted(volumes["role"]) == ["", "hbv"]
    settings = Preparation(modalities=("MR",), mr_spacing=(1.0, 1.0, 1.0))
    prepare(tmp_path / "cohort", tmp_path / "store", settings=settings, work=Work(workers=workers))
    store = open_store(tmp_path / "store")
    for row in store.volumes.to_dict("records"):
        b = 1000 if row["role"] == "hbv" else 0
        source = open_volume(folder / "dwi.dcm", frames=[chosen(tmp_path / "cohort")[row["volume_id"]]])
        assert np.array_equal(source.voxels[0], values[b])
        expected = source.reorient(settings.mr_orientation).voxels[0].ravel()
        found = store.read(row["volume_id"])[0].ravel()
        assert np.corrcoef(expected, found)[0, 1] > 0.99


def test_slices_of_two_files_that_lie_between_each_other_are_one_volume_of_the_store(tmp_path, write_frames):
    pixels = np.random.default_rng(5).integers(1, 900, SHAPE).astype(np.int16)
    shared = {"PixelMeasuresSequence": [{"PixelSpacing": [1, 1]}]}
    for first in range(2):
        write_frames(
            tmp_path / "archive" / f"{first}.dcm", pixels[first::2], "enhanced MR",
            [(0, 0, float(k)) for k in range(first, SHAPE[0], 2)], shared=shared,
        )  # fmt: skip
    index(tmp_path / "archive", tmp_path / "cohort")
    volumes = read_cohort(tmp_path / "cohort").volumes
    assert volumes[["status", "n_sources"]].to_numpy().tolist() == [["ok", 2]]
    prepare(tmp_path / "cohort", tmp_path / "store", settings=Preparation(modalities=("MR",)))
    (row,) = open_store(tmp_path / "store").volumes.to_dict("records")
    found = open_store(tmp_path / "store").read(row["volume_id"])[0]
    expected = pixels.transpose(2, 1, 0)[::-1, ::-1]  # from left, behind and below to right, front and top
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99
    (thumbnail,) = draw(tmp_path / "cohort", volumes, 1, HERE, silent)
    assert thumbnail.reason == "" and thumbnail.png


def test_a_file_with_a_volume_in_it_is_not_left_out(tmp_path, write_frames):
    """The place of one frame is not told: it has a row of its own that says so, its file is used all the same."""
    places = [(0, 0, 2.0 * k) for k in range(6)]
    each = [{}] * 5 + [{"PlanePositionSequence": None}]
    path = write_frames(tmp_path / "a" / "a.dcm", np.ones((6, 4, 5), np.int16), "enhanced MR", places, each=each)
    index(path.parent, tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    assert sorted(cohort.volumes["reason"]) == ["", "BAD_GEOMETRY"]
    assert cohort.instances["reason"].tolist() == [""]
    assert sorted(chosen(tmp_path / "cohort").values()) == [(0, 1, 2, 3, 4), (5,)]


def test_a_copy_of_a_file_brings_no_new_volumes(tmp_path, archive):
    folder, _ = archive
    index(folder, tmp_path / "one")
    (folder / "copy.dcm").write_bytes((folder / "dwi.dcm").read_bytes())
    index(folder, tmp_path / "two")
    one, two = (read_cohort(tmp_path / name).volumes for name in ("one", "two"))
    kept = two[two["status"] == "ok"]
    assert sorted(kept["volume_id"]) == sorted(one["volume_id"])
    assert two[two["status"] != "ok"]["reason"].tolist() == ["DUP_INSTANCE"]


def test_each_volume_of_a_file_has_its_own_thumbnail(tmp_path, archive):
    index(archive[0], tmp_path / "cohort")
    drawn = draw(tmp_path / "cohort", read_cohort(tmp_path / "cohort").volumes, 4, HERE, silent)
    assert [thumbnail.reason for thumbnail in drawn] == ["", ""]
    assert drawn[0].png != drawn[1].png
