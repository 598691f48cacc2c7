"""What models say of a case as a whole: a score, or one of each label."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medssl.answers.ensemble import Ensemble
from medssl.answers.windows import turned, ways
from medssl.store import Store
from medssl.views import Crops
from medssl.views.geometry import bounding_box, sample
from medssl.views.history import NOTHING, Told


def scores(models: Ensemble, store: Store, volumes: Sequence[str], told: Told = NOTHING) -> list[float]:
    """How likely models think their label of a case, or each of several, given what is told of it (0 to 1). `volumes` are
    those of its visits, the last first.
    """
    view = case_view(store, volumes, models.crops, told)
    view = view if len(models.crops.size) == 3 else view[..., None]
    found = [models.probabilities(turned(view, mirrored), told)[0] for mirrored in ways(models.flips)]
    return torch.stack(found).mean(0).reshape(-1).tolist()


def case_view(store: Store, volumes: Sequence[str], crops: Crops, told: Told = NOTHING) -> torch.Tensor:
    """The unaltered view of a case's middle (1, C, *S), or of all its visits (1, T, C, *S) where days are told, zeros where
    there were fewer. `volumes` are those of its visits, the last first.
    """
    views = [whole_view(store, name, crops) for name in reversed(volumes)]
    if not told.days.numel():
        return views[0]
    fewer = [torch.zeros_like(views[0])] * (told.days.shape[1] - len(views))
    return torch.stack([*fewer, *views], 1)


def whole_view(store: Store, volume_id: str, crops: Crops) -> torch.Tensor:
    """The unaltered view of the volume's middle, (1, C, *S)."""
    shape = store.shape(volume_id)
    place = crops.centred(shape, store.affine(volume_id))
    start, stop = bounding_box(place, crops.grid, shape)
    place[:3, 3] -= start
    view = sample(store.read(volume_id, "image", start.tolist(), stop.tolist()), place, crops.grid)
    return (view if len(crops.size) == 3 else view[..., 0])[None]
