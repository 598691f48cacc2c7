"""A structure for each voxel, by a U-Net decoder on the trunk's pyramid."""

from __future__ import annotations

import torch
from monai.losses import DiceCELoss
from torch import nn

from medssl.errors import UserError
from medssl.processes import gathered
from medssl.recipe import Positive
from medssl.trunks import Features, Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV


class Segment(nn.Module):
    """Logits for background and each of `structures`, in the order of their numbers 1, 2, ... in the label map.

    The loss is the mean of soft Dice over structures (background left out) plus cross-entropy, as in nnU-Net (Isensee
    et al., Nature Methods 2021). `tolerance_mm` is that of the surface Dice of what is found, declared before anybody
    looks: how far two good readers differ, of most organs on CT and MR some 2 mm. Of small ones and of OCT give less.
    """

    target = "mask"

    def __init__(self, trunk: Trunk, *, structures: tuple[str, ...], tolerance_mm: Positive = 2.0) -> None:
        super().__init__()
        if not structures:
            raise UserError("head.structures: empty; name the structures 1, 2, ... of the label map, e.g. [gland]")
        self.structures, self.tolerance_mm = structures, tolerance_mm
        self.decoder = Decoder(trunk)
        self.last = CONV[trunk.dims](self.decoder.width, len(structures) + 1, 1)
        self.criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, features: Features, size: tuple[int, ...]) -> torch.Tensor:
        """Logits (B, 1 + structures, *size)."""
        return self.last(self.decoder(features, size))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Dice plus cross-entropy with label maps (B, *S) of whole numbers.

        Dice is of the structures of all scans of a step, so each process is shown the logits of all.
        """
        scans = len(logits)
        return self.criterion(gathered(logits.float(), scans), gathered(target, scans)[:, None])
