"""Reading a cohort: the manifest's tables as data frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.errors import UserError
from medssl.manifest.tables import RECEIPT, checksum

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
    """The cohort in a folder. Raises UserError when it holds none, or tables that do not belong together."""
    import pandas as pd

    path = Path(path)
    names = ("instances", "volumes", "patients", "labels")
    for name in names:
        if not (path / f"{name}.parquet").is_file():
            raise UserError(f"{path}: no cohort here ({name}.parquet is missing); make one with medssl index")
    _check_whole(path)
    return Cohort(*(pd.read_parquet(path / f"{name}.parquet") for name in names))


def read_sources(path: Path | str) -> pd.DataFrame:
    """The files of each volume, in their order. Raises UserError for a cohort that was passed on without them."""
    return _read_private(Path(path), "sources")


def read_files(path: Path | str) -> pd.DataFrame:
    """Where each file of a cohort's archive is, and why it was left out ("": it was not). Raises as `read_sources`."""
    return _read_private(Path(path), "files")


def _read_private(path: Path, name: str) -> pd.DataFrame:
    import pandas as pd

    table = path / "phi" / f"{name}.parquet"
    if not table.is_file():
        raise UserError(f"{path}: the places of its files (phi/{name}.parquet) are not here; ask who made the cohort")
    return pd.read_parquet(table)


def _check_whole(path: Path) -> None:
    """Nothing; UserError when a table is not the one that the receipt was written with (a run killed at its very end).

    The folder phi/ may be gone: a cohort is passed on without it.
    """
    try:
        tables = json.loads((path / RECEIPT).read_text(encoding="utf-8"))["tables"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: no cohort here ({RECEIPT} is missing or damaged); run medssl index again") from None
    for name, told in tables.items():
        if name.startswith("phi/") and not (path / "phi").exists():
            continue
        if not (path / name).is_file() or checksum(path / name) != told:
            raise UserError(
                f"{path}: {name} is damaged or of another run; run medssl index again, it reads nothing twice"
            )
