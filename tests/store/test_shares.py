"""Preparing what has changed since it was indexed, what does not fit on the disk, and the shares of several machines."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from medssl.errors import UserError
from medssl.store import Preparation, open_store, prepare, prepare_share

SETTINGS = Preparation(mr_spacing=(1.0, 1.0, 1.0))
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def tree(folder):
    """What lies in a store, by path."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_source_whose_bytes_changed_is_not_prepared(clinic):
    """Uncompressed voxels have no checksum of their own."""
    clinic.scan("one")
    path = clinic.archive / "one.nii.gz"
    voxels = np.asarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(voxels[::-1], AFFINE), path)
    assert prepare(clinic.write(), clinic.store, settings=SETTINGS).reasons == {"SOURCE_CHANGED": 1}


def test_shares_of_several_machines_make_the_same_store(clinic, tmp_path):
    for name in "abcdefg":
        clinic.scan(name)
    cohort, whole = clinic.write(), tmp_path / "whole"
    prepare(cohort, whole, settings=SETTINGS)
    tried = [prepare_share(cohort, clinic.store, (i, 3), settings=SETTINGS) for i in (3, 1, 2)]
    assert sum(tried) == 7
    assert max(tried) < 7
    with pytest.raises(UserError, match="unfinished store"):
        open_store(clinic.store)
    receipt = prepare(cohort, clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.reused) == (7, 7)
    assert tree(clinic.store) == tree(whole)


def test_a_disk_that_is_too_small_is_told_before_the_work(clinic, monkeypatch):
    clinic.scan("one")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="larger disk"):
        prepare(clinic.write(), clinic.store, settings=SETTINGS)


def test_volumes_that_are_not_asked_for_are_counted(clinic):
    clinic.scan("one")
    for name in "ab":
        clinic.scan(name, modality="unknown")
    clinic.scan("left out", modality="unknown", status="excluded")
    receipt = prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.not_asked) == (1, {"unknown": 2})
    assert "2 volumes of modality unknown; a data card can say it" in str(receipt)


def test_a_share_with_other_settings_ends_the_old_store(clinic):
    for name in "abcd":
        clinic.scan(name)
    cohort = clinic.write()
    prepare(cohort, clinic.store, settings=SETTINGS)
    prepare_share(cohort, clinic.store, (1, 2), settings=Preparation(mr_spacing=(2.0, 2.0, 2.0)))
    with pytest.raises(UserError, match="unfinished store"):
        open_store(clinic.store)
