"""Several volumes in one file: each has its rows, its id and its own voxels, from the index to the store."""

import base64
import hashlib

import numpy as np
import pandas as pd
import pytest

from medssl.archive import open_volume
from medssl.manifest import index, read_cohort
from medssl.manifest.reading import read_file
from medssl.manifest.thumbnails import draw, plane, png
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
    assert len(store.volumes) == 2
    for row in store.volumes.to_dict("records"):
        b = 1000 if row["role"] == "hbv" else 0
        source = open_volume(folder / "dwi.dcm", frames=[chosen(tmp_path / "cohort")[row["volume_id"]]])
        assert np.array_equal(source.voxels[0], values[b])
        expected = source.reorient(settings.mr_orientation).voxels[0].ravel()
        found = store.read(row["volume_id"])[0].ravel()
        assert np.corrcoef(expected, found)[0, 1] > 0.99


def test_two_volumes_of_one_file_become_channels_of_a_case(tmp_path, write_frames):
    """High-b and ADC in one file, the T2w in another."""
    rng = np.random.default_rng(6)
    places = [(0, 0, float(k)) for k in range(SHAPE[0])]
    adc = {"MRImageFrameTypeSequence": [{"FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}]}
    slow = {"MREchoSequence": [{"EffectiveEchoTime": 100.0}],
            "MRTimingAndRelatedParametersSequence": [{"RepetitionTime": 4000}]}  # fmt: skip
    files = {"t2": [slow], "dwi": [diffusion(1500), adc | diffusion(1000)]}
    pixels = {}
    for number, (name, kinds) in enumerate(files.items()):
        pixels[name] = rng.integers(1, 900, (len(kinds) * SHAPE[0], *SHAPE[1:])).astype(np.int16)
        write_frames(
            tmp_path / "archive" / f"{name}.dcm", pixels[name], "enhanced MR", places * len(kinds),
            shared={"PixelMeasuresSequence": [{"PixelSpacing": [1, 1]}]},
            each=[kind for kind in kinds for _ in places], SeriesInstanceUID=f"1.2.3.{number}",
        )  # fmt: skip
    index(tmp_path / "archive", tmp_path / "cohort")
    assert sorted(read_cohort(tmp_path / "cohort").volumes["role"]) == ["adc", "hbv", "t2w"]
    prepare(tmp_path / "cohort", tmp_path / "store", settings=Preparation(modalities=("MR",), groups="bpmri"))
    store = open_store(tmp_path / "store")
    (row,) = store.volumes.to_dict("records")
    found = store.read(row["volume_id"])
    for channel, part in enumerate((pixels["t2"], pixels["dwi"][SHAPE[0] :], pixels["dwi"][: SHAPE[0]])):
        expected = part.transpose(2, 1, 0)[::-1, ::-1]
        assert np.corrcoef(expected.ravel(), found[channel].ravel())[0, 1] > 0.99


def test_slices_of_two_files_that_lie_between_each_other_are_one_volume_of_the_store(tmp_path, write_frames):
    pixels = np.random.default_rng(5).integers(1, 900, SHAPE).astype(np.int16)
    shared = {"PixelMeasuresSequence": [{"PixelSpacing": [1, 1]}]}
    for first in range(2):
        write_frames(
            tmp_path / "archive" / f"{first}.dcm", pixels[first::2][::-1], "enhanced MR",
            [(0, 0, float(k)) for k in range(first, SHAPE[0], 2)][::-1], shared=shared,
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
    files = [tmp_path / "archive" / f"{first}.dcm" for first in range(2)]
    assert thumbnail.png == png(*plane(open_volume(files)))


def test_a_file_with_a_volume_in_it_is_not_left_out(tmp_path, write_frames):
    """A localizer in it and a frame without a place have rows of their own that say so."""
    places = [(0, 0, 2.0 * k) for k in range(10)] + [(0, 2.0 * k, 0) for k in range(3)]
    crossed = {"PlaneOrientationSequence": [{"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}]}
    each = [{}] * 9 + [{"PlanePositionSequence": None}] + [crossed] * 3
    path = write_frames(tmp_path / "a" / "a.dcm", np.ones((13, 4, 5), np.int16), "enhanced MR", places, each=each)
    index(path.parent, tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    assert sorted(cohort.volumes["reason"]) == ["", "BAD_GEOMETRY", "LOCALIZER_OR_TOO_FEW"]
    assert cohort.instances["reason"].tolist() == [""]
    assert sorted(chosen(tmp_path / "cohort").values()) == [tuple(range(9)), (9,), (10, 11, 12)]


def test_a_volume_that_has_a_file_to_itself_is_called_by_the_content_of_the_file(tmp_path, write_frames):
    places = [(0, 0, float(k)) for k in (2, 0, 1)]
    path = write_frames(tmp_path / "a" / "a.dcm", np.ones((3, 4, 5), np.int16), "enhanced MR", places)
    index(path.parent, tmp_path / "cohort")
    (name,) = read_cohort(tmp_path / "cohort").volumes["volume_id"]
    digest = hashlib.sha256(read_file(path).digest.encode()).digest()
    assert name == base64.b32encode(digest).decode().lower()[:26]
    assert chosen(tmp_path / "cohort")[name] == (1, 2, 0)


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
