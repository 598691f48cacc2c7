"""Opening a store and asking it for rows and boxes."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.store import Damaged, Preparation, open_store, prepare
from medssl.store.shards import shard_path
from tests.store.conftest import sign


@pytest.fixture
def store(clinic):
    for number, name in enumerate("abcd"):
        clinic.scan(name, split="test" if name == "d" else "train", modality="CT" if name == "c" else "MR")
        if name in "ab":
            mask = np.zeros((20, 24, 16), np.uint8)
            mask[5:9, 5:9, 5:9] = number + 1
            clinic.mask(mask)
    clinic.write()
    labels = pd.read_parquet(clinic.cohort / "labels.parquet")
    labels["value"] = [0.0, 1.0, np.nan, 1.0]
    labels.to_parquet(clinic.cohort / "labels.parquet")
    prepare(clinic.cohort, clinic.store, settings=Preparation(mr_spacing=(1.0, 1.0, 2.0)))
    return open_store(clinic.store)


def test_rows_are_chosen_and_joined_with_patients(store):
    assert len(store.rows()) == 4
    assert store.rows()["volume_id"].is_monotonic_increasing
    assert len(store.rows(split="train")) == 3
    assert len(store.rows(split="train", modality="MR")) == 2
    assert len(store.rows(has_mask=True)) == 2
    assert len(store.rows(has_mask=False)) == 2
    assert set(store.rows()["sex"]) == {"F"}
    assert store.rows()["site"].tolist() == ["north"] * 4
    assert not [name for name in store.rows().columns if name.endswith(("_x", "_y"))]


def test_a_label_is_a_column_and_missing_ones_are_left_out(store):
    rows = store.rows(label="big")
    assert sorted(rows["big"]) == [0, 1, 1]
    assert len(store.rows(split="train", label="big")) == 2
    with pytest.raises(UserError, match="no label called 'bog'; did you mean 'big'"):
        store.rows(label="bog")
    with pytest.raises(UserError, match="it has: big"):
        store.rows(label="glaucoma")


def test_a_label_named_like_an_attribute_is_refused(clinic, store):
    labels = pd.read_parquet(clinic.store / "labels.parquet")
    labels.assign(name="sex").to_parquet(clinic.store / "labels.parquet")
    sign(clinic.store)
    with pytest.raises(UserError, match="rename it in the data card"):
        open_store(clinic.store).rows(label="sex")


def test_boxes_of_image_and_mask(store):
    volume_id = store.rows(has_mask=True)["volume_id"].iloc[0]
    whole, mask = store.read(volume_id), store.read(volume_id, "mask")
    assert whole.shape == (1, *store.shape(volume_id))
    assert np.array_equal(store.read(volume_id, start=(3, 4, 5), stop=(9, 9, 9)), whole[:, 3:9, 4:9, 5:9])
    assert np.array_equal(store.read(volume_id, "mask", start=(2, 2, 2)), mask[:, 2:, 2:, 2:])
    assert np.array_equal(store.read(volume_id, stop=(2, 2, 2)), whole[:, :2, :2, :2])
    store.affine(volume_id)[:] = 0
    assert store.affine(volume_id).any(), "a caller cannot change the store's own matrix"


def test_it_travels_to_other_processes(store):
    again = pickle.loads(pickle.dumps(store))
    volume_id = again.volumes["volume_id"].iloc[0]
    assert np.array_equal(again.read(volume_id), store.read(volume_id))


def test_what_is_not_there_is_said(store, tmp_path):
    without = store.rows(has_mask=False)["volume_id"].iloc[0]
    with pytest.raises(UserError, match="has no 'mask', only image"):
        store.read(without, "mask")
    with pytest.raises(UserError, match="phi"):
        store.read(without, "../../phi")
    with pytest.raises(UserError, match="no volume 'nobody'"):
        store.shape("nobody")
    with pytest.raises(UserError, match="no store; run medssl prepare"):
        open_store(tmp_path)
    (store.path / "store.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        open_store(store.path)


def test_damage_is_an_error_that_names_the_file(store):
    volume_id = store.volumes["volume_id"].iloc[0]
    path = shard_path(store.path / "arrays" / volume_id / "image")
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"{volume_id}/image/c/0/0/0/0 chunk"):
        store.read(volume_id)


def test_a_store_of_another_method_is_told(clinic):
    clinic.scan("a")
    prepare(clinic.write(), clinic.store)
    told = json.loads((clinic.store / "store.json").read_text())
    (clinic.store / "store.json").write_text(json.dumps(told | {"method": 1}))
    with pytest.raises(UserError, match="made by method 1 of preparing"):
        open_store(clinic.store)
    prepare(clinic.cohort, clinic.store)
    assert len(open_store(clinic.store).volumes) == 1
