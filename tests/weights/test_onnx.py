"""The ONNX file gives the trunk's features, for any number of views."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.weights import write_onnx


def needed(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'medssl[onnx]'")


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resenc", "nnunet", "vit"])
def test_the_file_gives_the_trunks_features(weights, tmp_path, name, dims):
    needed("onnxscript")
    runtime, made = needed("onnxruntime"), weights(name, dims)
    path = write_onnx(tmp_path / "trunk.onnx", made)
    assert [file.name for file in tmp_path.iterdir()] == ["trunk.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [out.name for out in session.get_outputs()] == [
        "pooled",
        *(f"level_{n}" for n in range(len(made.spec["levels"]))),
    ]
    assert json.loads(session.get_modelmeta().custom_metadata_map["medssl"]) == made.spec
    for views in (1, 3):
        x = torch.randn(views, 1, *(16, 12, 8)[:dims])
        found = session.run(None, {"image": x.numpy()})
        with torch.no_grad():
            features = made.trunk()(x)
        for a, b in zip(found, (features.pooled, *features.pyramid), strict=True):
            assert np.abs(a - b.numpy()).max() < 1e-4


def test_without_the_extra_the_line_that_installs_it_is_told(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx and onnxscript: not installed; pip install 'medssl\[onnx\]'"):
        write_onnx(tmp_path / "trunk.onnx", weights("resenc"))
    with pytest.raises(UserError, match=r"ends in \.onnx"):
        write_onnx(tmp_path / "trunk.pb", weights("resenc"))
