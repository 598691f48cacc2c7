"""What trained heads answer about a whole volume: a score, a label map, or a map of candidates."""

from __future__ import annotations

from medssl.answers.ensemble import Answering, Ensemble, agree
from medssl.answers.grids import place_of
from medssl.answers.voxels import Found, detection_maps, label_maps, save_map
from medssl.answers.whole import score, whole_view

__all__ = [
    "Answering",
    "Ensemble",
    "Found",
    "agree",
    "detection_maps",
    "label_maps",
    "place_of",
    "save_map",
    "score",
    "whole_view",
]
