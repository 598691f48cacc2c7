"""medssl: from an unlabelled hospital imaging archive to a fair, calibrated clinical model.

Three rooms meet in data on disk. Reading (archive, manifest, store) turns raw files into prepared volumes without torch.
Learning (views, trunks, methods, heads, train, adapt, predict) turns the store into a predictions table. Judging
(evaluate, report) turns that table into a report without torch. The names below are loaded when first used; predict,
evaluate and compare are imported from the rooms that have their names.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Volume": "volume",
    "UserError": "errors",
    "open_volume": "archive",
    "index": "manifest",
    "read_card": "manifest",
    "read_cohort": "manifest",
    "prepare": "store",
    "Preparation": "store",
    "open_store": "store",
    "read_recipe": "recipe",
    "pretrain": "train",
    "finetune": "adapt",
    "read_predictions": "evaluate",
    "write_report": "report",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"medssl has no {name!r}; it has: {', '.join(sorted(_HOMES))}")
    return getattr(importlib.import_module(f"medssl.{_HOMES[name]}"), name)
