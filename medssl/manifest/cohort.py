"""Reading a cohort: the manifest's tables as data frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Cohort:
    """The tables of a manifest; see medssl/manifest/tables.py for their columns."""

    instances: pd.DataFrame
    volumes: pd.DataFrame
    patients: pd.DataFrame
    labels: pd.DataFrame


def read_cohort(path: Path | str) -> Cohort:
    """The cohort in a folder. Raises UserError when it holds none."""
    import pandas as pd

    path = Path(path)
    names = ("instances", "volumes", "patients", "labels")
    for name in names:
        if not (path / f"{name}.parquet").is_file():
            raise UserError(f"{path}: no cohort here ({name}.parquet is missing); make one with medssl index")
    return Cohort(*(pd.read_parquet(path / f"{name}.parquet") for name in names))
