"""A residual encoder as a checkpoint for nnU-Net's fine-tuning of pretrained weights (nnUNetv2_train_pretrained).

The encoder's tensors have the names of nnU-Net's ResidualEncoderUNet, each under both names that it gives a layer, the
biases that ours does not have as zeros, the axes backwards (z, y, x). Beside them the plan that nnssl (Wald et al., 2025,
arXiv:2410.23132 and 2412.17041) puts in its checkpoints: how to build the network, its patch, where encoder and stem are.
Not said, since nnU-Net has no word for it: the orientation, and that it will norm intensities by its own z-score.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.trunks import ResEnc
from medssl.weights.folder import Weights
from medssl.weights.foreign import Adapting, Tensors, turned
from medssl.weights.residual import RESENC_L, RUN_AS, units
from medssl.weights.spec import voxel_mm

ENCODER, CONFIGURATION = "encoder", "medssl"

UNET = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


def write_nnunet(path: Path, weights: Weights) -> Path:
    """`path`, a .pth file that torch.load opens under weights_only, with the trunk as nnU-Net's encoder.

    Raises UserError for a trunk that is not of nnU-Net's layout.
    """
    if path.suffix != ".pth":
        raise UserError(f"{path}: nnU-Net's checkpoints end in .pth; give such a name")
    if weights.spec["trunk"]["name"] != "resenc":
        raise UserError(f"{weights.spec['trunk']['name']}: nnU-Net's encoder is a resenc; use --as medssl or onnx")
    trunk = cast(ResEnc, weights.trunk())
    content = {
        "network_weights": encoder_tensors(trunk),
        "nnssl_adaptation_plan": adaptation_plan(trunk, weights.spec),
        "citations": [],
        "medssl": json.dumps(weights.spec),
    }
    with replacing(path) as part:
        torch.save(content, part)
    return path


def encoder_tensors(trunk: ResEnc) -> Tensors:
    """The trunk's weights under the names, and in the order of axes, of nnU-Net's encoder."""
    module = cast(nn.Module, trunk)
    ours, theirs, backwards = module.state_dict(), {}, Adapting(axes="reversed")
    for unit in units(trunk):
        weight = turned(ours[f"{unit.conv}.weight"], backwards)
        own: dict[str, Tensors] = {"conv": {"weight": weight}, "norm": {}}
        if ".skip." not in unit.theirs:  # their shortcuts have no bias
            own["conv"]["bias"] = torch.zeros(len(weight))
        own["norm"] = {end: ours[f"{unit.norm}.{end}"] for end in ("weight", "bias")}
        for kind, tensors in own.items():
            for end, value in tensors.items():
                for name in (kind, RUN_AS[kind]):
                    theirs[f"{ENCODER}.{unit.theirs}.{name}.{end}"] = value
    return theirs


def adaptation_plan(trunk: ResEnc, spec: dict[str, Any]) -> dict[str, Any]:
    """What nnssl tells of a checkpoint to whoever fine-tunes it; axes backwards."""
    patch = spec["views_size"][::-1]
    seen = voxel_mm(spec)
    spacing = seen[::-1] if seen else None
    return {
        "architecture_plans": _architecture(trunk),
        "pretrain_plan": {
            "configurations": {
                CONFIGURATION: {
                    "patch_size": patch,
                    "spacing": spacing,
                    "spacing_style": "fixed" if spacing else "noresample",
                    "normalization_schemes": ["ZScoreNormalization"] * trunk.channels,
                    "use_mask_for_norm": [False] * trunk.channels,
                }
            }
        },
        "pretrain_num_input_channels": trunk.channels,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": f"{ENCODER}.stages",
        "key_to_stem": f"{ENCODER}.stem",
        "keys_to_in_proj": [f"{ENCODER}.stem.convs.0.{name}" for name in ("conv", RUN_AS["conv"])],
        "key_to_lpe": None,
    }


def _architecture(trunk: ResEnc) -> dict[str, Any]:
    """The network by its preset's name, or by the arguments of its class where there is no preset like it."""
    before = ((1,) * trunk.dims, *trunk.strides)
    blocks = [cast(nn.Sequential, stage) for stage in trunk.stages]
    known: dict[str, Any] = {
        "features_per_stage": list(trunk.widths),
        "n_blocks_per_stage": [len(stage) for stage in blocks],
        "kernel_sizes": [list(stage[0].body[0].kernel_size[::-1]) for stage in blocks],  # type: ignore[union-attr,index]
        "strides": [
            [b // a for a, b in zip(fine, coarse, strict=True)][::-1] for fine, coarse in itertools.pairwise(before)
        ],
    }
    if known == RESENC_L:
        return {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    arguments = {
        "n_stages": len(trunk.widths),
        **known,
        "n_conv_per_stage_decoder": [1] * (len(trunk.widths) - 1),
        "conv_op": f"torch.nn.modules.conv.Conv{trunk.dims}d",
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{trunk.dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    return {"arch_class_name": UNET, "arch_kwargs": arguments, "arch_kwargs_requiring_import": imported}
