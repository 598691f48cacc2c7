"""What is in a cohort, counted from its tables: summary.html, summary.json and summary/*.csv hold the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.reasons import REASONS
from medssl.atomic import write_json, write_text
from medssl.manifest.cohort import Cohort, read_cohort
from medssl.manifest.demographics import UNKNOWN
from medssl.manifest.flow import BY_DESIGN, fates, flow, without_name
from medssl.manifest.people import MINIMUM, SMALL, people, share
from medssl.manifest.tables import RECEIPT
from medssl.progress import Progress, silent
from medssl.units import HERE, Work

if TYPE_CHECKING:
    import pandas as pd

    from medssl.manifest.flow import Fates

BINS = 16
"""Bars of a histogram, equally wide on a logarithmic axis."""

MOST_ROWS = 20
"""Scanners and words of one kind that are listed; the rarest beyond it are one row together."""

COMMONEST_SHAPES = 3

WORDS = {
    "body_part": "body part", "role": "role", "laterality": "side", "view_position": "view", "source_kind": "read from",
    "spacing_source": "voxel size from", "split_by": "split by",
}  # fmt: skip
"""Columns of the volumes whose words are counted, and what they are called."""

ALWAYS = {"body_part", "source_kind", "spacing_source"}
"""Columns that are listed even where nothing is known: what is missing is an answer."""

Row = dict[str, Any]


def write_summary(cohort: Path | str, *, thumbnails: int = 24, work: Work = HERE, progress: Progress = silent) -> Path:
    """The path of summary.html in the cohort's folder, written beside summary.json and the tables in summary/.

    Equal cohorts give equal bytes. `thumbnails` (0: none) is how many volumes are drawn; their sources are opened, all
    else comes from the tables. A volume that cannot be read is shown as its reason. Raises UserError for no cohort.
    """
    from medssl.manifest.summary_page import render
    from medssl.manifest.summary_tables import write_tables
    from medssl.manifest.thumbnails import draw

    folder = Path(cohort)
    tables = read_cohort(folder)
    content = summarise(tables, json.loads((folder / RECEIPT).read_text(encoding="utf-8")))
    pictures = draw(folder, tables.volumes, thumbnails, work, progress)
    write_json(folder / "summary.json", content)
    write_tables(content, folder / "summary")
    write_text(folder / "summary.html", render(content, pictures))
    return folder / "summary.html"


def summarise(cohort: Cohort, receipt: Row) -> Row:
    """What summary.json holds: counts, and words that the tables hold. No path, no date, no id of an image."""
    kept = cohort.volumes[cohort.volumes["status"] != "excluded"]
    found = fates(cohort)
    return {
        "volumes": len(kept),
        "bytes": int(cohort.instances["size"].sum()),
        "flow": [asdict(level) for level in flow(found)],
        "without_series": without_name(cohort, "series"),
        "without_study": without_name(cohort, "studies"),
        "reasons": _reasons(cohort, found),
        "people": people(cohort, found["patients"]),
        "modalities": _modalities(cohort.volumes),
        "scanners": _scanners(cohort.volumes),
        "labels": _labels(kept, cohort.labels),
        "splits": _splits(kept),
        **_told(receipt),
    }


def _reasons(cohort: Cohort, found: Fates) -> list[Row]:
    """Every reason there is, the commonest first, with what to do, how much left by it and how much stayed in spite."""
    left = {level: counted(reasons) for level, reasons in found.items()}
    warned = counted(cohort.volumes.loc[cohort.volumes["status"] == "warn", "reason"])
    codes = sorted({code for counts in (*left.values(), warned) for code in counts} - {""})
    rows = [
        {
            "code": code, "meaning": REASONS.get(code.partition(":")[0], "Not in this version's table of reasons."),
            "by_design": code in BY_DESIGN, **{level: counts.get(code, 0) for level, counts in left.items()},
            "volumes_kept": warned.get(code, 0),
        }
        for code in codes
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row["by_design"], -row["files"], row["code"]))


def _modalities(volumes: pd.DataFrame) -> list[Row]:
    """For each modality its volumes, their voxels and what is known of them, the commonest first."""
    rows = []
    for name, every in volumes.groupby("modality"):
        kept = every[every["status"] != "excluded"]
        rows.append({
            "modality": str(name), "volumes": len(kept), "patients": int(kept["patient_pid"].nunique()),
            "left_out": len(every) - len(kept), "masks": int(kept["has_mask"].sum()), "sizes": _sizes(kept),
            "shapes": listed(" x ".join(str(int(n)) for n in shape) for shape in kept["shape"])[:COMMONEST_SHAPES],
            "words": [
                {"what": what, "counts": listed(kept[column])}
                for column, what in WORDS.items()
                if len(kept) and (column in ALWAYS or set(kept[column]) - {"", UNKNOWN})
            ],
        })  # fmt: skip
    return sorted(rows, key=lambda row: (-row["volumes"], row["modality"]))


def _sizes(kept: pd.DataFrame) -> list[Row]:
    """Histograms of voxel sizes and of numbers of voxels; flat pictures have no third axis."""
    shapes = [sorted(int(n) for n in shape if n > 1) for shape in kept["shape"]]
    spacings = [
        sorted(float(mm) for mm, n in zip(spacing, shape, strict=False) if n > 1) if source != "unknown" else []
        for spacing, shape, source in zip(kept["spacing"], kept["shape"], kept["spacing_source"], strict=True)
    ]
    return [
        {"what": "finest voxel side", "unit": "mm", **histogram([row[0] for row in spacings if row], len(kept))},
        {"what": "coarsest voxel side", "unit": "mm", **histogram([row[-1] for row in spacings if row], len(kept))},
        {"what": "longest side", "unit": "voxels", **histogram([row[-1] for row in shapes if row], len(kept))},
        {"what": "shortest side", "unit": "voxels", **histogram([row[0] for row in shapes if row], len(kept))},
    ]


def histogram(values: Sequence[float], total: int) -> Row:
    """How values above 0 are spread: ends, median and counts in bins of equal width on a logarithmic axis.

    `missing` is how many of `total` have no value. Of no values there are no ends; equal ones are all in the middle.
    """
    import numpy as np

    if not values:
        return {"missing": total, "least": None, "median": None, "most": None, "counts": []}
    values = [float(f"{value:.4g}") for value in values]  # more digits would be noise of the header's text
    least, most = min(values), max(values)
    place = np.log(np.array(values) / least) / np.log(most / least) if least < most else np.full(len(values), 0.5)
    counts = np.bincount(np.minimum((place * BINS).astype(int), BINS - 1), minlength=BINS)
    ends = {"least": least, "median": float(np.median(values)), "most": most}
    return {"missing": total - len(values), **ends, "counts": [int(n) for n in counts]}


def _scanners(volumes: pd.DataFrame) -> list[Row]:
    """Volumes that stayed and volumes or series that left, by scanner and modality."""
    rows: list[Row] = []
    for (modality, scanner), part in volumes.groupby(["modality", "scanner"]):
        stayed = int((part["status"] != "excluded").sum())
        left = len(part) - stayed
        rows.append({"modality": str(modality), "scanner": str(scanner), "volumes": stayed, "left_out": left})
    rows.sort(key=lambda row: (-row["volumes"], -row["left_out"], row["modality"], row["scanner"]))
    if len(rest := rows[MOST_ROWS:]) < 2:
        return rows
    sums = {name: sum(row[name] for row in rest) for name in ("volumes", "left_out")}
    return [*rows[:MOST_ROWS], {"modality": "", "scanner": f"{len(rest)} others", **sums}]


def _labels(kept: pd.DataFrame, labels: pd.DataFrame) -> list[Row]:
    """For each label who has it; of a label that is 0 or 1 also how often it is 1, unless that tells of few people."""
    rows = []
    whole = labels.merge(kept[["volume_id", "patient_pid"]], on="volume_id")
    for name, part in whole.groupby("name"):
        patients = int(part["patient_pid"].nunique())
        rows.append({
            "label": str(name), "volumes": int(part["volume_id"].nunique()), "patients": patients,
            "volumes_without": len(kept) - int(part["volume_id"].nunique()),
            "binary": (binary := set(part["value"]) <= {0.0, 1.0}), **_positive(part, patients, binary),
        })  # fmt: skip
    return rows


def _positive(part: pd.DataFrame, patients: int, binary: bool) -> Row:
    positive = int(part.loc[part["value"] == 1, "patient_pid"].nunique())
    if not binary:
        return {"positive": None, "hidden": ""}
    few = any(0 < n < MINIMUM for n in (positive, patients - positive))
    return {"positive": None, "hidden": SMALL} if few else {"positive": share(positive, patients), "hidden": ""}


def _splits(kept: pd.DataFrame) -> list[Row]:
    """Patients and volumes by split, in the order in which they are used."""
    names = sorted(set(kept["split"]), key=lambda name: (["train", "val", "test", name].index(name), name))
    rows = []
    for name in names:
        part = kept[kept["split"] == name]
        count = int(part["patient_pid"].nunique())
        rows.append({"split": name, "patients": count, "volumes": len(part), "modalities": counted(part["modality"])})
    return rows


def counted(values: Iterable[object]) -> dict[str, int]:
    """How often each value occurs, sorted by it."""
    import pandas as pd

    return {str(name): int(n) for name, n in pd.Series(list(values), dtype=object).value_counts().sort_index().items()}


def listed(values: Iterable[object]) -> list[tuple[str, int]]:
    """Values and how often they occur, the commonest first, "none" and "unknown" last; the rarest of many as one row."""
    counts = counted(value or "none" for value in values)
    rows = sorted(counts.items(), key=lambda item: (item[0] in ("none", UNKNOWN), -item[1], item[0]))
    if len(rest := rows[MOST_ROWS:]) < 2:
        return rows
    return [*rows[:MOST_ROWS], (f"{len(rest)} others", sum(count for _, count in rest))]


def _told(receipt: Row) -> Row:
    """What did not fit together when the archive was indexed, and what it was indexed with."""
    unmatched = {
        "table_rows_without_image": "rows of the clinical table without an image",
        "volumes_without_table_row": "volumes without a row in the clinical table",
        "label_maps_without_image": "label maps without an image",
        "volumes_without_label_map": "volumes without a label map",
    }
    return {
        "unmatched": [{"what": what, **receipt[key]} for key, what in unmatched.items() if key in receipt],
        "notes": list(receipt.get("notes", ())),
        "made_with": {key: receipt[key] for key in ("card", "key", "versions") if key in receipt},
    }
