"""From a cohort to a store: every kept volume reoriented, resampled, normalised and written once.

Each volume is its own commit: its folder appears whole, with a row that says how it was made, or not at all. The tables
and store.json come last. A run that was stopped, for whatever reason, goes on where it was when it is started again.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import google_crc32c
import pandas as pd

from medssl.atomic import sweep
from medssl.errors import UserError
from medssl.lock import writing
from medssl.progress import Progress, silent
from medssl.store.case import Case, Part, Row, failed, left_out, prepare_case, read_row, row_there
from medssl.store.fingerprint import described
from medssl.store.pairing import Pairing, pair
from medssl.store.reasons import meaning
from medssl.store.settings import GROUPS, METHOD, MODALITIES, Preparation
from medssl.store.tables import RECORD, volumes_table, write_tables
from medssl.units import HERE, Work, map_units

BYTES_PER_VOXEL, COMPRESSION = 2, 2.7
"""Of prepared voxels: float16, and how well Blosc packs the images of scanners (measured 2.2 to 2.9)."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a run of `prepare` did: volumes now usable, those of them that were there before, why others are not, and how
    many the settings do not ask for, by modality.
    """

    prepared: int
    reused: int
    masks: int
    reasons: dict[str, int]
    not_asked: dict[str, int]

    def __str__(self) -> str:
        text = f"{self.prepared} volumes prepared ({self.reused} were there), {self.masks} with label maps"
        for code, count in self.reasons.items():
            text += f"\n  {code}: {count}. {meaning(code)}"
        for modality, count in self.not_asked.items():
            remedy = (
                "a data card can say it (modality: MR)" if modality == "unknown" else "see prepare.modalities, roles"
            )
            text += f"\n  not asked for: {count} volumes of modality {modality}; {remedy}"
        return text


def prepare(
    cohort: Path | str,
    store: Path | str,
    *,
    settings: Preparation | None = None,
    work: Work = HERE,
    progress: Progress = silent,
) -> Receipt:
    """What was done. `store` then holds the cohort's volumes as `settings` ask, ready for `open_store`.

    Volumes already prepared with the same settings are kept. A volume that cannot be prepared is left out with a
    reason and the others go on; an error while writing (a full disk) is raised and leaves nothing half-written.
    """
    from medssl.manifest import read_cohort  # those who only read a store do not load the archive's decoders

    cohort, store, settings = Path(cohort), Path(store), settings or Preparation()
    content = read_cohort(cohort)
    with writing(store, "medssl prepare"):
        (store / "arrays").mkdir(exist_ok=True)
        for place in store, store / "arrays":
            sweep(place)
        if _settings_there(store) not in (None, _plain(settings)):
            (store / RECORD).unlink()  # from here on the arrays are of two kinds: not a store until all are made
        selected, pairing = _selected(content.volumes, settings)
        cases = _cases(selected, pairing, cohort, store, settings)
        there, missing = _divided(cases)
        _check_space(store, missing)
        fresh = map_units(prepare_case, missing, work, failed=_ended)
        rows = [*there.values(), *progress(fresh, "preparing", len(cases), len(there))]
        rows += [left_out(volume_id, code) for volume_id, code in pairing.left_out.items()]
        volumes = volumes_table(content.volumes, rows)
        write_tables(store, content, volumes, described(volumes, store), settings)
    usable = volumes["status"] != "excluded"
    reasons = Counter(code for row in rows if (code := str(row["prepared_reason"])))
    return Receipt(
        prepared=int(usable.sum()),
        reused=len(there),
        masks=int((usable & volumes["has_mask"]).sum()),
        reasons=dict(reasons.most_common()),
        not_asked=_not_asked(content.volumes, selected),
    )


def prepare_share(
    cohort: Path | str,
    store: Path | str,
    share: tuple[int, int],
    *,
    settings: Preparation | None = None,
    work: Work = HERE,
    progress: Progress = silent,
) -> int:
    """How many volumes are share (i, n) of the cohort's: they have been tried, and those that can be are in `store`.

    Each of n machines prepares its share into the same folder, at the same time or not; `prepare` then finds them there
    and writes the tables. A share that was stopped is started again. Raises what `prepare` raises.
    """
    from medssl.manifest import read_cohort

    cohort, store, settings = Path(cohort), Path(store), settings or Preparation()
    number, among = share
    with writing(store, "medssl prepare", share=True):
        (store / "arrays").mkdir(exist_ok=True)
        if _settings_there(store) not in (None, _plain(settings)):
            (store / RECORD).unlink(missing_ok=True)  # as in `prepare`; another share may be faster
        selected, pairing = _selected(read_cohort(cohort).volumes, settings)
        cases = [
            case
            for case in _cases(selected, pairing, cohort, store, settings)
            if zlib.crc32(case.volume_id.encode()) % among == number - 1
        ]
        there, missing = _divided(cases)
        _check_space(store, missing)
        for _ in progress(map_units(prepare_case, missing, work, failed=_ended), "preparing", len(cases), len(there)):
            pass
    return len(cases)


def _divided(cases: list[Case]) -> tuple[dict[str, Row], list[Case]]:
    """The rows of the volumes that are there already, and the cases that are not."""
    there = {case.volume_id: row for case in cases if (row := row_there(case))}
    return there, [case for case in cases if case.volume_id not in there]


def _not_asked(volumes: pd.DataFrame, selected: pd.DataFrame) -> dict[str, int]:
    """How many usable volumes of each modality the settings do not select."""
    left = volumes[(volumes["status"] != "excluded") & ~volumes["volume_id"].isin(selected["volume_id"])]
    return {str(code): int(count) for code, count in left["modality"].value_counts().sort_index().items()}


def _check_space(store: Path, cases: list[Case]) -> None:
    """Nothing; UserError when the volumes would not fit on the disk, compressed as well as medical volumes are."""
    needed = sum(BYTES_PER_VOXEL * _voxels(case) for case in cases) / COMPRESSION
    free = shutil.disk_usage(store).free
    if needed > free:
        raise UserError(
            f"{store}: {len(cases)} volumes need about {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free; "
            "give a folder on a larger disk or choose a coarser spacing"
        )


def _voxels(case: Case) -> float:
    """How many values the prepared volume will have, about."""
    if MODALITIES[case.modality] == "xray" or 1 in case.shape or len(case.spacing) != 3:
        return float(case.settings.xray_pixels**2)
    target = case.settings.spacing(case.modality)
    grid = math.prod(n * mm / goal for n, mm, goal in zip(case.shape, case.spacing, target, strict=True))
    return grid * (1 + len(case.parts))


def _settings_there(store: Path) -> object:
    """The settings that the store was made with; None when it is new or unfinished."""
    try:
        return json.loads((store / RECORD).read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "unreadable"


def _plain(settings: Preparation) -> object:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(asdict(settings)))


def _selected(volumes: pd.DataFrame, settings: Preparation) -> tuple[pd.DataFrame, Pairing]:
    """The cohort's rows of the volumes that the settings ask for, sorted by id, and how they combine."""
    kept = (volumes["status"] != "excluded") & volumes["modality"].isin(settings.modalities)
    roles = settings.roles or GROUPS.get(settings.groups, ())
    if roles:
        kept &= (volumes["modality"] != "MR") | volumes["role"].isin(roles)
    selected = volumes[kept].sort_values("volume_id")
    return selected, pair(selected, settings.groups)


def _cases(selected: pd.DataFrame, pairing: Pairing, cohort: Path, store: Path, settings: Preparation) -> list[Case]:
    files = _sources(cohort)
    shapes = {row_id: tuple(int(n) for n in shape) for row_id, shape in selected[["volume_id", "shape"]].to_numpy()}
    apart = selected[~selected["volume_id"].isin(pairing.absorbed | set(pairing.left_out))]
    for volume_id in (*apart["volume_id"], *sorted(pairing.absorbed)):
        if volume_id not in files:
            raise UserError(f"{cohort}: volume {volume_id} has no source; run medssl index again")
    cases = []
    for row in apart.to_dict("records"):
        sources, frames, checksums, mask = files[row["volume_id"]]
        folder = store / "arrays" / row["volume_id"]
        mask_checksum = _checksum(mask, folder)
        parts = tuple(
            Part(**asdict(other), shape=shapes[other.volume_id], sources=paths, frames=some, checksums=crcs)
            for other in pairing.partners.get(row["volume_id"], ())
            for paths, some, crcs, _ in [files[other.volume_id]]
        )
        cases.append(
            Case(
                volume_id=row["volume_id"],
                modality=row["modality"],
                shape=shapes[row["volume_id"]],
                spacing=tuple(float(mm) for mm in row["spacing"]),
                sources=sources,
                frames=frames,
                checksums=checksums,
                mask=mask,
                mask_checksum=mask_checksum,
                parts=parts,
                settings=settings,
                preparation_hash=_hash(row["volume_id"], row["modality"], mask_checksum, parts, settings),
                folder=folder,
            )
        )
    return cases


def _sources(cohort: Path) -> dict[str, _Sources]:
    """The files of each volume in their order, the frames of each that belong to it, their checksums (None: unknown), and
    its label map.
    """
    from medssl.manifest.cohort import read_sources

    table = read_sources(cohort).sort_values(["volume_id", "order"])
    archive = Path(str(table["archive"].iloc[0])) if len(table) else Path()
    files = {}
    for volume_id, group in table.groupby("volume_id"):
        mask = next((path for path in group["mask_path"] if path), "")
        checksums = tuple(None if pd.isna(crc) else int(crc) for crc in group["crc32c"])
        paths = tuple(archive / path for path in group["path"])
        chosen = group["frames"] if "frames" in group else [()] * len(group)  # cohorts of before had whole files
        frames = tuple(tuple(map(int, some)) for some in chosen)
        files[str(volume_id)] = paths, frames, checksums, archive / mask if mask else None
    return files


_Sources = tuple[tuple[Path, ...], tuple[tuple[int, ...], ...], tuple[int | None, ...], Path | None]


def _hash(volume_id: str, modality: str, mask: int | None, parts: tuple[Part, ...], settings: Preparation) -> str:
    """What the prepared arrays are a function of: the content of image and label map, the settings and this code."""
    facts = {
        "method": METHOD,
        "volume": volume_id,
        "parts": [[part.role, part.volume_id] for part in parts],
        "settings": settings.concerning(modality),
        "mask": mask,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:26]


def _checksum(mask: Path | None, folder: Path) -> int | None:
    """The checksum of a label map's file; None when there is none.

    While it cannot be read it counts as unchanged: arrays made with it are not made again without it.
    """
    try:
        return google_crc32c.value(mask.read_bytes()) if mask is not None and mask.is_file() else None
    except OSError:
        told = (read_row(folder) or {}).get("mask_file_crc32c")
        return told if isinstance(told, int) else None


def _ended(case: Case, code: str) -> Row:
    return failed(case, code)
