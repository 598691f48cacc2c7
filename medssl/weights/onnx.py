"""A trunk as ONNX, for whoever runs networks without torch. Needs the extra medssl[onnx]."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.trunks import Trunk
from medssl.weights.folder import Weights

IMAGE, POOLED, LEVEL = "image", "pooled", "level_{}"
"""Names of what goes in and comes out; levels are counted from the finest, from 0."""

SPEC = "medssl"
"""Under which of the file's own facts the spec is, as JSON."""


class Flat(nn.Module):
    """The trunk with its features as a plain tuple: pooled, then the pyramid from fine to coarse."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of views (B, C, *S)."""
        features = self.trunk(image)
        return features.pooled, *features.pyramid


def write_onnx(path: Path, weights: Weights) -> Path:
    """`path`, an .onnx file of the trunk for views of the spec's size, any number of them at a time.

    Raises UserError without medssl[onnx], or for another ending.
    """
    if path.suffix != ".onnx":
        raise UserError(f"{path}: an ONNX file ends in .onnx; give such a name")
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise UserError(f"{' and '.join(missing)}: not installed; pip install 'medssl[onnx]'")
    flat = Flat(weights.trunk()).eval()
    image = torch.zeros(2, weights.spec["channels"], *weights.spec["views_size"])
    outputs = [POOLED, *(LEVEL.format(n) for n in range(len(weights.spec["levels"])))]
    with _quiet():
        program = torch.onnx.export(
            flat,
            (image,),
            input_names=[IMAGE],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("views")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[SPEC] = json.dumps(weights.spec)
    with replacing(path) as part:
        program.save(str(part), external_data=False)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is said of torchvision, which is not needed, nor of what torch 2.13 deprecates in itself; and attention is
    computed step by step, for ONNX has no word for torch's fused kernel.
    """
    told, fused = logging.getLogger("torch.onnx"), torch.backends.mha.get_fastpath_enabled()
    level = told.level
    torch.backends.mha.set_fastpath_enabled(False)
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*treespec", FutureWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        told.setLevel(level)
