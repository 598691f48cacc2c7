"""Trunks with random weights, as folders of weights would hold them."""

import pytest
import torch

from medssl.trunks import build_trunk
from medssl.weights import Weights
from medssl.weights.spec import describe, input_of

SECTIONS = {
    "resenc": {"name": "resenc", "widths": [4, 6, 8], "norms": ["instance", "group", "group"]},
    "nnunet": {
        "name": "resenc", "widths": [4, 6, 8, 8], "depths": [1, 2, 1, 1], "stem": True, "hide": "sparse",
        "strides": [[1, 1, 1], [1, 1, 1], [2, 2, 1], [2, 2, 2]],
    },
    "vit": {"name": "vit", "patch": [4, 4, 4], "width": 24, "depth": 2, "heads": 3, "registers": 1},
}  # fmt: skip


def random_weights(name, dims=3, **changes):
    """Weights of one of SECTIONS for views of 16 x 12 x 8 voxels, every number of them random."""
    size = (16, 12, 8)[:dims]
    section = {**SECTIONS[name], **changes}
    if "patch" in section:
        section["patch"] = section["patch"][:dims]
    if "strides" in section:
        section["strides"] = [stride[:dims] for stride in section["strides"]]
    torch.manual_seed(1)
    trunk = build_trunk(section, size)
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    recipe = {"views": {"size": list(size)}, "data": {"modality": "MR"}}
    prepared = {"settings": {"mr_spacing": [1, 1, 2.5]}, "modalities": ["MR"]}
    origin = {"kind": "pretrain", "name": "random", "store": "0" * 16, "start": "scratch", "volumes": 3, "steps": 2}
    spec = {**describe(trunk, section, size), "input": input_of(recipe, prepared), "method": {}, "origin": origin}
    return Weights(trunk.state_dict(), spec)


@pytest.fixture
def weights():
    return random_weights
