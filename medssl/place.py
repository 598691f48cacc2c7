"""Where a training or a prediction runs: the device and the precision, through Lightning Fabric."""

from __future__ import annotations

import logging

from lightning_fabric import Fabric


def find_place(precision: str) -> Fabric:
    """Fabric on the best device there is, quietly. One process; the precision is the recipe's."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each precision on standard error
    return Fabric(accelerator="auto", devices=1, precision=precision)
