"""What models say of a volume as a whole: a score."""

from __future__ import annotations

import torch

from medssl.answers.ensemble import Ensemble
from medssl.answers.windows import turned, ways
from medssl.store import Store
from medssl.views import Crops
from medssl.views.geometry import bounding_box, sample


def score(models: Ensemble, store: Store, volume_id: str) -> float:
    """How likely classifiers think their label (0 to 1)."""
    view = whole_view(store, volume_id, models.crops)
    view = view if view.ndim == 5 else view[..., None]
    scores = [float(models.probabilities(turned(view, mirrored))) for mirrored in ways(models.flips)]
    return sum(scores) / len(scores)


def whole_view(store: Store, volume_id: str, crops: Crops) -> torch.Tensor:
    """The unaltered view of the volume's middle, (1, C, *S)."""
    shape = store.shape(volume_id)
    place = crops.centred(shape, store.affine(volume_id))
    start, stop = bounding_box(place, crops.grid, shape)
    place[:3, 3] -= start
    view = sample(store.read(volume_id, "image", start.tolist(), stop.tolist()), place, crops.grid)
    return (view if len(crops.size) == 3 else view[..., 0])[None]
