"""What failed for a reason that may be gone is tried again; what was made in the meantime is not thrown away."""

import errno
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medssl.store import Preparation, case, open_store, prepare
from medssl.units import Work

SETTINGS = Preparation(mr_spacing=(2.0, 2.0, 2.0))


def labels(value=1):
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[5:15, 5:15, 5:12] = value
    return mask


def failing(monkeypatch, name, code, times):
    """Reading the file `name` fails for the first `times` times."""
    read, left = Path.read_bytes, [times]

    def read_bytes(path):
        if path.name == name and left[0] > 0:
            left[0] -= 1
            raise OSError(code, "the system says so")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return left


@pytest.fixture
def masked(clinic):
    volume = clinic.scan("a")
    clinic.mask(labels())
    clinic.write()
    return clinic, volume


def made(clinic):
    """Reason and label map of the only volume after another run, and whether it was there before."""
    receipt = prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    row = open_store(clinic.store).volumes.iloc[0]
    return row["reason"], bool(row["has_mask"]), receipt.reused == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_label_map_that_could_not_be_read_for_a_while(masked, monkeypatch, code, skipped):
    """While its checksum is taken, or after that, while the volume is prepared; or both."""
    clinic, _ = masked
    read, left = Path.read_bytes, [skipped, 2 - skipped]

    def read_bytes(path):
        if path.name == "mask_a.nii.gz":
            if left[0] > 0:
                left[0] -= 1
            elif left[1] > 0:
                left[1] -= 1
                raise OSError(code, "the system says so")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert made(clinic) == ("MASK_IO_ERROR", False, False)
    assert made(clinic) == ("", True, False)
    assert made(clinic) == ("", True, True)


def test_a_volume_with_its_label_map_survives_a_disk_that_fails(masked, monkeypatch):
    clinic, volume = masked
    assert made(clinic) == ("", True, False)
    before = open_store(clinic.store).read(volume, "mask")
    failing(monkeypatch, "mask_a.nii.gz", errno.EIO, times=99)
    assert made(clinic) == ("", True, True)
    assert np.array_equal(open_store(clinic.store).read(volume, "mask"), before)


def test_a_label_map_that_was_gone_only_while_the_volume_was_prepared(masked, monkeypatch):
    clinic, _ = masked
    path = clinic.archive / "mask_a.nii.gz"
    take = case._open

    def gone(*arguments):
        path.rename(path.with_suffix(".away"))
        return take(*arguments)

    monkeypatch.setattr(case, "_open", gone)
    assert made(clinic) == ("MASK_MISSING", False, False)
    monkeypatch.undo()
    path.with_suffix(".away").rename(path)
    assert made(clinic) == ("", True, False)


def test_a_label_map_that_is_damaged_or_away_is_not_tried_again_and_again(clinic):
    clinic.scan("a")
    clinic.mask(labels())
    (clinic.archive / "mask_a.nii.gz").write_bytes(b"not an image")
    clinic.write()
    assert made(clinic) == ("MASK_UNREADABLE", False, False)
    assert made(clinic) == ("MASK_UNREADABLE", False, True)
    (clinic.archive / "mask_a.nii.gz").unlink()
    assert made(clinic) == ("MASK_MISSING", False, False)
    assert made(clinic) == ("MASK_MISSING", False, True)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES])
def test_a_source_that_could_not_be_read_for_a_while(clinic, monkeypatch, code):
    clinic.scan("a")
    clinic.write()
    failing(monkeypatch, "a.nii.gz", code, times=1)
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reasons == {"IO_ERROR": 1}
    receipt = prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.reused, receipt.reasons) == (1, 0, {})


@pytest.mark.parametrize(
    ("work", "code"),
    [(Work(workers=1, seconds=0.001), "TIMEOUT"), (Work(workers=1, memory_gb=0.01), "OUT_OF_MEMORY")],
    ids=["time", "memory"],
)
def test_a_volume_for_which_time_or_memory_was_short(clinic, work, code):
    clinic.scan("a", voxels=np.random.default_rng(0).normal(100, 10, (96, 96, 96)).astype(np.float32))
    clinic.write()
    found = prepare(clinic.cohort, clinic.store, settings=SETTINGS, work=work).reasons
    # Where memory ends inside a library, the library may end the process instead of saying so.
    assert found in ({code: 1}, {"TOO_LARGE": 1}, {"CRASHED": 1})
    receipt = prepare(clinic.cohort, clinic.store, settings=SETTINGS, work=Work(workers=1))
    assert (receipt.prepared, receipt.reused, receipt.reasons) == (1, 0, {})


def test_a_volume_whose_process_died(clinic, monkeypatch):
    clinic.scan("a")
    clinic.write()
    with monkeypatch.context() as patch:
        died = lambda _, units, *rest, failed: (failed(unit, "CRASHED") for unit in units)  # noqa: E731
        patch.setattr(import_module("medssl.store.prepare"), "map_units", died)
        assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reasons == {"CRASHED": 1}
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 0
    assert len(open_store(clinic.store).volumes) == 1
