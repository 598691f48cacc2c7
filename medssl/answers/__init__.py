"""What trained heads answer about a case: scores, a label map, or a map of candidates."""

from __future__ import annotations

from medssl.answers.case import Case, answer
from medssl.answers.ensemble import Answering, Ensemble, agree
from medssl.answers.grids import place_of
from medssl.answers.voxels import Found, detection_maps, label_maps, likeliest, save_map, viewer
from medssl.answers.whole import case_view, scores, whole_view

__all__ = [
    "Answering",
    "Case",
    "Ensemble",
    "Found",
    "agree",
    "answer",
    "case_view",
    "detection_maps",
    "label_maps",
    "likeliest",
    "place_of",
    "save_map",
    "scores",
    "viewer",
    "whole_view",
]
