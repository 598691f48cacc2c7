"""Fundus photographs in colour, from files to a store of three channels; radiographs in colour are left out."""

import numpy as np
import pandas as pd
import pytest
from skimage.io import imsave

from medssl.manifest import index, read_card
from medssl.store import Preparation, open_store, prepare


@pytest.mark.parametrize("modality", ["OP", "DX"])
def test_colours_are_channels_each_on_the_scale_of_eight_bits(tmp_path, modality, rng):
    pictures = {f"p{n}": rng.integers(0, 256, (24, 24, 3), dtype=np.uint8) for n in range(3)}
    (tmp_path / "a").mkdir()
    for name, picture in pictures.items():
        imsave(tmp_path / "a" / f"{name}.png", picture, check_contrast=False)
    (tmp_path / "card.yaml").write_text(f'name: eyes\nfiles: "*.png"\nmodality: {modality}\n')
    index(tmp_path / "a", tmp_path / "cohort", card=read_card(tmp_path / "card.yaml"))
    if modality == "DX":
        told = pd.read_parquet(tmp_path / "cohort" / "instances.parquet")
        assert told["reason"].tolist() == ["COLOR_IMAGE"] * 3
        return
    prepare(tmp_path / "cohort", tmp_path / "store", settings=Preparation(modalities=("OP",), xray_pixels=24))
    store = open_store(tmp_path / "store")
    assert len(store.volumes) == 3 and set(store.volumes["channels"]) == {3}
    read = [store.read(name)[..., 0].transpose(2, 1, 0).astype(float) * 255 for name in store.volumes["volume_id"]]
    for picture in pictures.values():
        assert any(np.abs(one - picture).max() < 0.2 for one in read)
    facts = store.volumes["channel_facts"].iloc[0]
    assert [one["role"] for one in facts] == ["red", "green", "blue"]
