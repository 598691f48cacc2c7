"""What a trained head answers about a whole volume: a score, a label map, or a map of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.heads import Detect
from medssl.heads.candidates import candidates
from medssl.learners import Supervised
from medssl.store import Store
from medssl.views import Crops
from medssl.views.geometry import sample
from medssl.views.history import NOTHING, Told

OVERLAP = 0.5
"""Fraction by which neighbouring windows overlap."""


def whole_view(store: Store, volume_id: str, crops: Crops) -> torch.Tensor:
    """The unaltered view of the volume's middle, (1, C, *S)."""
    place = crops.centred(store.shape(volume_id), store.affine(volume_id))
    view = sample(store.read(volume_id), place, crops.grid)
    return (view if len(crops.size) == 3 else view[..., 0])[None]


def case_view(store: Store, volumes: Sequence[str], crops: Crops, told: Told = NOTHING) -> torch.Tensor:
    """The unaltered view of a case's middle (1, C, *S), or of all its visits (1, T, C, *S) where days are told, zeros where
    there were fewer. `volumes` are those of its visits, the last first.
    """
    views = [whole_view(store, name, crops) for name in reversed(volumes)]
    if not told.days.numel():
        return views[0]
    fewer = [torch.zeros_like(views[0])] * (told.days.shape[1] - len(views))
    return torch.stack([*fewer, *views], 1)


def score(model: Supervised, store: Store, volumes: Sequence[str], crops: Crops, told: Told = NOTHING) -> float:
    """How likely a classifier thinks its label of a case (0 to 1), given what is told of it."""
    device = next(model.parameters()).device
    view = case_view(store, volumes, crops, told).to(device)
    return float(torch.sigmoid(model.answer(view, told.to(device)).float())[0])


def scores(model: Supervised, store: Store, volume_id: str, crops: Crops) -> list[float]:
    """How likely a head for findings thinks each of its labels (0 to 1)."""
    view = whole_view(store, volume_id, crops).to(next(model.parameters()).device)
    return torch.sigmoid(model.answer(view).float())[0].tolist()


def label_map(model: Supervised, store: Store, volume_id: str, crops: Crops) -> np.ndarray:
    """The structures (I, J, K) found on the prepared grid, by their numbers."""
    return _everywhere(model, store, volume_id, crops).argmax(1)[0].to(torch.uint8).cpu().numpy()


def detection_map(model: Supervised, store: Store, volume_id: str, crops: Crops) -> np.ndarray:
    """The candidates (I, J, K) found on the prepared grid, each of one confidence; 0 elsewhere."""
    logits = _everywhere(model, store, volume_id, crops)
    return candidates(torch.sigmoid(logits)[0].cpu().numpy(), cast(Detect, model.head).by)


def _everywhere(model: Supervised, store: Store, volume_id: str, crops: Crops) -> torch.Tensor:
    """Logits (1, ..., I, J, K) of a volume, by overlapping windows."""
    if crops.mm:
        raise UserError("views.mm: voxels are judged on the prepared grid; set the spacing in prepare, not in views")
    device = next(model.parameters()).device
    voxels = torch.from_numpy(np.asarray(store.read(volume_id), np.float32))[None].to(device)
    flat, lone = len(crops.size) == 2, isinstance(model.head, Detect)

    def answer(x: torch.Tensor) -> torch.Tensor:
        logits = model.answer(x)
        return logits[:, None] if lone else logits  # the windows are put together channel by channel

    logits = sliding_window_inference(
        voxels[..., 0] if flat else voxels, crops.size, 4, answer, OVERLAP, "gaussian", cval=float(voxels.min())
    )
    found = cast(torch.Tensor, logits).float()
    found = found[:, 0] if lone else found
    return found[..., None] if flat else found


def save_map(path: Path, found: np.ndarray, affine: np.ndarray) -> None:
    """Nothing; the NIfTI `path` holds a map (I, J, K) in its place in the world."""
    import nibabel as nib

    with replacing(path) as part:
        named = part.with_name(f"{part.name}.nii.gz")
        nib.save(nib.Nifti1Image(found, affine), named)
        named.replace(part)
