"""Raw files as they arrive: indexed, prepared as a model's training volumes were, and each either ready or refused.

The work folder holds the cohort and the store, so that a second call reads and prepares only what is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medssl.domain import Ranges, Refused, read_ranges
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.cohort import read_files, read_sources
from medssl.progress import Progress, silent
from medssl.recipe import make
from medssl.store import Preparation, Store, open_store, prepare
from medssl.store.reasons import meaning
from medssl.store.tables import RECORD
from medssl.units import HERE, Work
from medssl.views import Crops
from medssl.views.select import build_views

SPLIT = "external"
"""Of volumes that came from outside of the training store."""


@dataclass(frozen=True, eq=False)
class Arrivals:
    """A store of the volumes that a model may be asked about and their rows, and what it is not asked about. Without any,
    no store.
    """

    store: Store | None
    rows: pd.DataFrame
    refused: list[Refused]


def is_store(path: Path) -> bool:
    """Whether a folder is a store, finished or not, rather than one of raw files."""
    return (path / RECORD).is_file() or (path / "arrays").is_dir()


@dataclass(frozen=True)
class Known:
    """What a model knows: how its training volumes were prepared, what they were like, and what its views are."""

    settings: Preparation
    ranges: Ranges
    crops: Crops


def known_to(run: Path, record: Mapping[str, Any], others: Sequence[Path] = ()) -> Known:
    """What the model of a fine-tuned run, whose record is given, knows; modalities and sequences that it never saw are not
    prepared. Training volumes are also those of `others` that answer with it. Raises UserError for a run of before this was
    kept.
    """
    ranges, crops = read_ranges(run), build_views(record["recipe"]["views"]).crops
    ranges = replace(ranges, volumes=ranges.volumes.union(*(read_ranges(other).volumes for other in others)))
    settings = make(Preparation, record["prepared"]["settings"], "prepare")
    roles = () if settings.groups else ranges.roles("MR")
    return Known(replace(settings, modalities=ranges.modalities, roles=roles), ranges, crops)


def receive(
    archive: Path,
    folder: Path,
    known: Known,
    *,
    card: Card | None = None,
    work: Work = HERE,
    progress: Progress = silent,
) -> Arrivals:
    """What can be answered of the raw files in `archive`, and what cannot, each with its reason: files and series that
    could not be read, volumes that could not be prepared, and those outside of what a model knows. `folder` is for the
    cohort and the store.

    The split of a row is "external", but "train" for patients of whom the model learned from a volume. Raises UserError
    for a folder without files, and as `index` and `prepare` do.
    """
    cohort, prepared, ranges = folder / "cohort", folder / "store", known.ranges
    index(archive, cohort, card=card, work=work, progress=progress)
    volumes, sources = read_cohort(cohort).volumes, read_sources(cohort)
    usable = volumes[volumes["status"] != "excluded"].to_dict("records")
    refused = [*_files_left_out(cohort, sources), *_left_out(volumes)]
    strange = list(filter(None, map(ranges.other_kind, usable)))
    store, rows = None, volumes.iloc[:0]
    if len(strange) < len(usable):
        prepare(cohort, prepared, settings=known.settings, work=work, progress=progress)
        store = open_store(prepared)
        others = {one.volume_id for one in strange}
        strange += [one for one in _left_out(store.left_out) if one.volume_id not in others]
        rows = store.rows()
        asked = rows[~rows["volume_id"].isin(others)].to_dict("records")
        strange += filter(None, (ranges.outside(row, known.crops) for row in asked))
        rows = _told(rows[~rows["volume_id"].isin({one.volume_id for one in strange})], volumes, ranges)
        # What is refused is nobody's earlier visit, and no reason not to read a channel of the others.
        store = replace(store, volumes=store.volumes[store.volumes["volume_id"].isin(rows["volume_id"])])
    first = sources.sort_values("order").drop_duplicates("volume_id").set_index("volume_id")["path"]
    placed = [one._replace(path=first.get(one.volume_id, one.path)) for one in [*refused, *strange]]
    return Arrivals(store, rows, sorted(placed, key=lambda one: (one.path, one.volume_id)))


def _told(rows: pd.DataFrame, volumes: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    """The rows, sorted by id, with their split."""
    known = set(volumes["patient_pid"][volumes["volume_id"].isin(ranges.volumes)])
    split = rows["patient_pid"].isin(known).map({True: "train", False: SPLIT})
    return rows.assign(split=split).sort_values("volume_id", ignore_index=True)


def _files_left_out(cohort: Path, sources: pd.DataFrame) -> Iterator[Refused]:
    """Files of which no volume or series was made."""
    files = read_files(cohort)
    for row in files[(files["status"] == "excluded") & ~files["path"].isin(sources["path"])].itertuples():
        yield Refused("", str(row.path), *_reason(str(row.reason)))


def _left_out(volumes: pd.DataFrame) -> Iterator[Refused]:
    """Rows of a cohort's or a store's table that say why they are not used."""
    for row in volumes[volumes["status"] == "excluded"].itertuples():
        yield Refused(str(row.volume_id), "", *_reason(str(row.reason)))


def _reason(code: str) -> tuple[str, str]:
    """A code and its sentence; of a label map, the index has words and no code."""
    return (code, meaning(code)) if code.isupper() else ("LABEL_MAP_ALONE", f"{code}; nothing to answer")
