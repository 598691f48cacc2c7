"""MONAI opens the bundle and gets the trunk."""

import json

import monai
import pytest
import torch
from monai.bundle import ConfigParser

from medssl.weights import read_weights, write_bundle


@pytest.mark.parametrize("name", ["resenc", "nnunet", "vit"])
def test_the_network_of_the_bundle_is_the_trunk(weights, tmp_path, name):
    made = weights(name)
    folder = write_bundle(tmp_path / "bundle", made)
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    x = torch.randn(2, 1, 16, 12, 8)
    with torch.no_grad():
        ours, theirs = made.trunk()(x), parser.get_parsed_content("inferer")(x, network)
    assert torch.equal(ours.pooled, theirs.pooled)
    assert all(torch.equal(a, b) for a, b in zip(ours.pyramid, theirs.pyramid, strict=True))
    assert not network.training


def test_monai_finds_in_the_metadata_what_it_requires(weights, tmp_path):
    folder = write_bundle(tmp_path / "bundle", weights("nnunet"))
    told = json.loads((folder / "configs" / "metadata.json").read_text())
    assert told["monai_version"] == monai.__version__
    required = {
        "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
        "description", "authors", "copyright", "network_data_format",
    }  # fmt: skip
    assert required <= set(told)
    image = told["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"], image["channel_def"]) == (1, [16, 12, 8], {"0": "MR"})
    assert told["network_data_format"]["outputs"]["pooled"]["num_channels"] == 8
    assert told["medssl"]["input"] == read_weights(folder / "models").spec["input"]
    assert "(B, 1, 16, 12, 8)" in (folder / "docs" / "README.md").read_text()


def test_the_page_of_the_bundle_tells_the_voxels_of_the_views(weights, tmp_path):
    made = weights("resenc")
    for views_mm, told in ((None, "is 1 x 1 x 2.5 mm"), ([32.0, 18.0, 32.0], "is 2 x 1.5 x 4 mm")):
        made.spec["input"]["views_mm"] = views_mm
        assert f"A voxel of these images {told}." in (write_bundle(tmp_path, made) / "docs" / "README.md").read_text()
    made.spec["input"] = None
    assert "has no size that is known" in (write_bundle(tmp_path, made) / "docs" / "README.md").read_text()
