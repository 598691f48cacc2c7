"""Judging a predictions table: metrics, intervals over patients, groups, gaps, thresholds and comparisons. No torch."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "evaluate": "analysis",
    "compare": "comparison",
    "read_predictions": "predictions",
    "check_predictions": "predictions",
    "auroc": "metrics",
    "average_precision": "metrics",
    "brier": "metrics",
    "sensitivity": "metrics",
    "specificity": "metrics",
    "dice": "overlap",
}

__all__ = [
    "auroc",
    "average_precision",
    "brier",
    "check_predictions",
    "compare",
    "dice",
    "evaluate",
    "read_predictions",
    "sensitivity",
    "specificity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"medssl.evaluate has no {name!r}")
    return getattr(importlib.import_module(f"medssl.evaluate.{_HOMES[name]}"), name)
