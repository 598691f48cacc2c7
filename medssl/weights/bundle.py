"""A trunk as a MONAI Bundle: metadata, a configuration that builds the network and loads its weights, and the weights.

MONAI has no network like ours, so the bundle needs medssl itself; it reads no pickle. The images must be prepared as the
metadata say under "medssl": MONAI has no transform for most of our intensities, and none is pretended.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.weights.folder import TENSORS, Weights, write_weights
from medssl.weights.spec import voxel_mm

README = """\
# A pretrained trunk of medssl

`configs/inference.json` builds the encoder and loads `models/{file}`:

    parser = monai.bundle.ConfigParser()
    parser.read_config("configs/inference.json")
    parser["bundle_root"] = "."
    network = parser.get_parsed_content("network")
    features = network(images)  # (B, {channels}, {size}); features.pooled, features.pyramid

Needs medssl. A voxel of these images {voxel}. How images must be prepared, and where the weights come from, is in
`models/spec.json`.
"""


def write_bundle(folder: Path, weights: Weights) -> Path:
    """`folder`, a MONAI Bundle whose `network` is the trunk in eval mode, on the GPU if there is one."""
    write_weights(folder / "models", weights)
    write_json(folder / "configs" / "inference.json", inference(weights))
    write_json(folder / "configs" / "metadata.json", metadata(weights))
    size = ", ".join(map(str, weights.spec["views_size"]))
    seen = voxel_mm(weights.spec)
    voxel = f"is {' x '.join(f'{mm:g}' for mm in seen)} mm" if seen else "has no size that is known"
    text = README.format(file=TENSORS, channels=weights.spec["channels"], size=size, voxel=voxel)
    write_text(folder / "docs" / "README.md", text)
    return folder


def inference(weights: Weights) -> dict[str, Any]:
    """What ConfigParser reads: `network_def` is the untrained trunk, `network` has the weights."""
    return {
        "imports": ["$import torch", "$from safetensors.torch import load_file"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "medssl.trunks.build_trunk",
            "section": weights.spec["trunk"],
            "size": f"$tuple({weights.spec['views_size']})",
        },
        "weights": f"$load_file(@bundle_root + '/models/{TENSORS}')",
        "load": "$@network_def.load_state_dict(@weights)",
        "network": "$(@load, @network_def.to(@device).eval())[1]",
        "inferer": {"_target_": "monai.inferers.SimpleInferer"},
    }


def metadata(weights: Weights) -> dict[str, Any]:
    """What MONAI wants to know of a bundle, with our spec under "medssl"."""
    spec = weights.spec
    version = {name: importlib.metadata.version(name) for name in ("monai", "torch", "numpy", "medssl", "safetensors")}
    modalities = [one["modality"] for one in (spec["input"] or {"modalities": []})["modalities"]]
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": ", ".join(modalities) or "unknown",
        "num_channels": spec["channels"],
        "spatial_shape": spec["views_size"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": _channels(spec),
    }
    pooled = {
        "type": "feature",
        "format": "vector",
        "num_channels": spec["dim"],
        "spatial_shape": [],
        "dtype": "float32",
    }
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by medssl"},
        "monai_version": version["monai"],
        "pytorch_version": version["torch"],
        "numpy_version": version["numpy"],
        "required_packages_version": {name: version[name] for name in ("medssl", "safetensors")},
        "name": spec["origin"].get("name") or "medssl trunk",
        "task": "Features of images, by self-supervised pretraining",
        "description": f"A {spec['trunk']['name']} trunk of medssl, without a head",
        "authors": "",
        "copyright": "",
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pooled": {**pooled, "value_range": [], "is_patch_data": True, "channel_def": {}}},
        },
        "medssl": spec,
    }


def _channels(spec: dict[str, Any]) -> dict[str, str]:
    seen = spec["input"]["modalities"] if spec["input"] else []
    if len(seen) != 1:
        return {str(n): "image" for n in range(spec["channels"])}
    return {str(n): one["role"] or seen[0]["modality"] for n, one in enumerate(seen[0]["channels"])}
