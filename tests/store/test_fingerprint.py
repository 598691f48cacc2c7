"""What a store's volumes are like, against the same numbers computed from the voxels."""

import json

import numpy as np
import pytest

from medssl.errors import UserError
from medssl.store import Preparation, open_store, prepare
from medssl.store.fingerprint import fingerprint
from medssl.units import Work

SETTINGS = Preparation(mr_spacing=(1.0, 1.0, 2.0))
SAGITTAL = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])
"""Slices 3 mm apart from left to right: I runs backwards, J downwards, K to the right."""


def sagittal(clinic, name, **told):
    voxels = np.random.default_rng(1).normal(500, 40, (30, 40, 12)).astype(np.int16)
    return clinic.scan(name, voxels=voxels, affine=SAGITTAL, **told)


def test_source_axes_are_told_in_the_order_of_the_prepared_ones(clinic):
    volume_id = sagittal(clinic, "a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    facts = fingerprint(clinic.store)["modalities"]["MR"]
    assert [axis[2] for axis in facts["spacing_mm"]] == [3.0, 1.0, 0.5]
    assert [axis[2] for axis in facts["shape"]] == [12, 30, 40]
    assert [axis[2] for axis in facts["prepared_shape"]] == list(open_store(clinic.store).shape(volume_id))
    assert [axis[2] for axis in facts["prepared_spacing_mm"]] == [1, 1, 2]
    assert facts["anisotropy"][2] == 6


def test_intensities_are_pooled_over_all_voxels(clinic):
    values = [np.random.default_rng(n).normal(100 * n, 10 * n, (20, 24, 16)).astype(np.float32) for n in (1, 2, 3)]
    for n, voxels in enumerate(values):
        clinic.scan(f"s{n}", voxels=voxels, site="north" if n < 2 else "south")
    whole = Preparation(mr_spacing=(1.0, 1.0, 2.0))
    prepare(clinic.write(), clinic.store, settings=whole)
    facts = fingerprint(clinic.store)["modalities"]["MR"]
    everything = np.stack(values)
    assert facts["intensity"]["image"]["mean"] == pytest.approx(everything.mean(), rel=1e-4)
    assert facts["intensity"]["image"]["std"] == pytest.approx(everything.std(), rel=1e-4)
    ends = [np.percentile(voxels, 99.5) for voxels in values]
    assert facts["intensity"]["image"]["p99_5"][2] == pytest.approx(np.median(ends), rel=1e-4)
    south = facts["sites"]["south"]
    assert (facts["volumes"], facts["patients"], south["volumes"]) == (3, 3, 1)
    assert south["intensity"]["image"]["mean"] == pytest.approx(values[2].mean(), rel=1e-4)
    assert sorted(facts["sites"]) == ["north", "south"]
    files = [p for p in (clinic.store / "arrays").rglob("*") if p.is_file()]
    assert facts["bytes"] == sum(path.stat().st_size for path in files)
    assert facts["bytes"] == sum(site["bytes"] for site in facts["sites"].values())


def test_what_was_not_measured_has_no_weight(clinic):
    voxels = np.full((20, 24, 16), 50.0, np.float32)
    voxels[15, 0, 0], voxels[:10] = 60.0, np.nan
    clinic.scan("half", voxels=voxels)
    clinic.scan("whole", voxels=np.full((20, 24, 16), 200.0, np.float32) + np.eye(20, 24)[..., None])
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    mean = fingerprint(clinic.store)["modalities"]["MR"]["intensity"]["image"]["mean"]
    assert mean == pytest.approx((50 * 0.5 + 200 + 20 / 480) / 1.5, abs=0.1)


def test_prepare_writes_it_and_it_is_the_same_again(clinic):
    clinic.scan("a", role="t2w")
    clinic.scan("b", role="adc")
    clinic.scan("c", modality="CT")
    (clinic.archive / "gone.nii.gz").write_bytes(b"")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    text = (clinic.store / "fingerprint.json").read_text()
    assert json.loads(text) == fingerprint(clinic.store) == json.loads(json.dumps(fingerprint(clinic.store)))
    found = json.loads(text)["modalities"]
    assert sorted(found) == ["CT", "MR"]
    assert sorted(found["MR"]["intensity"]) == ["adc", "t2w"]
    other = clinic.store.with_name("other")
    prepare(clinic.cohort, other, settings=SETTINGS, work=Work(workers=2))
    assert (other / "fingerprint.json").read_text() == text


def test_a_flat_picture_s_depth_is_no_anisotropy(clinic):
    clinic.scan("a", modality="DX", voxels=np.random.default_rng(0).normal(0, 1, (20, 24, 1)).astype(np.float32))
    prepare(clinic.write(), clinic.store, settings=Preparation(xray_pixels=32))
    assert fingerprint(clinic.store)["modalities"]["DX"]["anisotropy"] == [1.0] * 5


def test_an_empty_store_has_no_modality_and_none_is_an_error(clinic):
    clinic.scan("a", status="excluded", reason="GAP")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert fingerprint(clinic.store)["modalities"] == {}
    with pytest.raises(UserError, match="no store"):
        fingerprint(clinic.archive)
