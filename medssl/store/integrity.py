"""Whether a store or cohort is whole, and whether anybody is on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import errorcode
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import UserError
from medssl.manifest.audit import FAULTS, LEAKS, Finding, faults, people_on_both_sides, sources_outside, usable
from medssl.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from medssl.store.reader import Store
    from medssl.store.twins import Sketch

DAMAGE = {
    "ARRAY_DAMAGED": "Voxels are missing or fail their checksum; remove the volume's folder and run medssl prepare again.",
    "ARRAY_OF_ANOTHER_RUN": "The voxels are whole but not those that the table tells of; remove the volume's folder and "
    "run medssl prepare again.",
    "ARRAY_UNREADABLE": "The disk or network failed, or allowed no reading; verify again when it is well.",
    "ORPHAN": "Voxels that no row of the table tells of, of an older cohort or settings; remove the folder.",
    "ROW_DAMAGED": "The volume's row.json is missing or cannot be read; run medssl prepare again.",
}
"""Code -> what is wrong with the arrays of a store, and what to do."""

LEARNED, JUDGED = "learned from", "judged on"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verify` found: nothing wrong when `damage`, `faults` and `leaks` are empty. `notes` are not faults."""

    checked: int
    damage: tuple[Finding, ...]
    faults: tuple[Finding, ...]
    leaks: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = []
        for title, table, found in (
            ("damaged", DAMAGE, self.damage), ("at fault", FAULTS, self.faults), ("LEAK", LEAKS, self.leaks)
        ):  # fmt: skip
            for code in sorted({finding.code for finding in found}):
                these = [finding for finding in found if finding.code == code]
                lines.append(f"{title}: {len(these)} x {code}. {table[code]}")
                lines += [
                    f"    {' and '.join(one.things)}{f': {one.seen}' if one.seen else ''}" for one in these[:TOLD]
                ]
                lines += [f"    and {len(these) - TOLD} more"] * (len(these) > TOLD)
        state = "nothing wrong found" if not lines else f"{len(self.leaks)} leaks"
        return "\n".join(
            [f"{self.checked} volumes checked, {state}", *lines, *(f"note: {note}" for note in self.notes)]
        )


TOLD = 5
"""How many findings of a kind are written out for people; all are in the JSON."""


def verify(path: Path | str, *, against: Path | str | None = None, progress: Progress = silent) -> Verdict:
    """What is wrong with the cohort or store in `path`: every byte, every row, and everybody who is in two splits.

    With `against`, another cohort or store, also whoever is learned from (split train) here and judged on (val, test,
    external) there: give the store of pretraining and that of the task. Ids can only be compared when both were
    indexed with one key file; voxels only between stores. Raises UserError where there is neither cohort nor store.
    """
    one = _read(Path(path), progress)
    found = [*people_on_both_sides(one.volumes, one.volumes["split"])]
    found += _copies(one, one, _sides(one.volumes["split"]))
    notes = []
    if against is not None:
        other = _read(Path(against), progress)
        found += _between(one, other)
        if not set(one.volumes["patient_pid"]) & set(other.volumes["patient_pid"]):
            notes.append("the two have no patient in common: true, or they were indexed with different key files")
    return Verdict(
        checked=len(one.volumes),
        damage=tuple(sorted(one.damage)),
        faults=tuple(sorted(one.faults)),
        leaks=tuple(sorted(set(found))),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """Usable volumes, by id; sketches and checksums of the voxels of those that are whole (stores only)."""

    volumes: pd.DataFrame
    faults: list[Finding]
    damage: list[Finding]
    sketches: Mapping[str, Sketch]
    checksums: Mapping[str, tuple[Any, ...]]


def _read(path: Path, progress: Progress) -> _Contents:
    from medssl.manifest import read_cohort
    from medssl.store.reader import open_store

    if (path / "arrays").is_dir():
        store = open_store(path)
        everything = faults(_all(store), store.patients, store.labels)
        damage = _orphans(store)
        sketches: dict[str, Sketch] = {}
        checksums: dict[str, tuple[Any, ...]] = {}
        rows = store.volumes.to_dict("records")
        for row, (finding, drawn) in progress(_arrays(store, rows), "checking", len(rows)):
            name = str(row["volume_id"])
            damage += [finding] if finding else []
            if not finding:
                checksums[name] = (int(row["array_crc32c"]), *map(int, row["prepared_shape"]))
            if drawn:
                sketches[name] = drawn
        volumes = store.volumes
    elif (path / "volumes.parquet").is_file():
        cohort = read_cohort(path)
        volumes = usable(cohort.volumes)
        everything = faults(cohort.volumes, cohort.patients, cohort.labels) + sources_outside(path)
        damage, sketches, checksums = [], {}, {}
    else:
        raise UserError(f"{path}: neither a cohort nor a store; give the folder of medssl index or medssl prepare")
    volumes = volumes.set_index("volume_id", drop=False)
    return _Contents(volumes=volumes, faults=everything, damage=damage, sketches=sketches, checksums=checksums)


def _all(store: Store) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([part for part in (store.volumes, store.left_out) if len(part)] or [store.volumes])


def _orphans(store: Store) -> list[Finding]:
    known = set(store.volumes["volume_id"])
    there = sorted(folder.name for folder in (store.path / "arrays").iterdir() if folder.is_dir())
    return [Finding("ORPHAN", (name,)) for name in there if name not in known]


def _arrays(
    store: Store, rows: Sequence[Mapping[Any, Any]]
) -> Iterator[tuple[Mapping[Any, Any], tuple[Finding | None, Sketch | None]]]:
    for row in rows:
        yield row, _array(store, row)


def _array(store: Store, row: Mapping[Any, Any]) -> tuple[Finding | None, Sketch | None]:
    """What is wrong with a volume's arrays, if anything, and the sketch of its image. Every byte of them is read."""
    from medssl.store.case import read_row
    from medssl.store.layout import Damaged
    from medssl.store.shards import checksum
    from medssl.store.twins import sketch

    name = str(row["volume_id"])
    told = read_row(store.path / "arrays" / name)
    if told is None:
        return Finding("ROW_DAMAGED", (name,)), None
    try:
        image = store.read(name)
        found = {"array_crc32c": checksum(image)}
        for other in ("mask", "valid"):
            if row[f"has_{other}"]:
                found[f"{other}_crc32c"] = checksum(store.read(name, other))
    except Damaged as damaged:
        return Finding("ARRAY_DAMAGED", (name,), damaged.code), None
    except OSError as error:
        return Finding("ARRAY_UNREADABLE", (name,), errorcode.get(error.errno or 0, "")), None
    if any(row[column] != value or told.get(column) != value for column, value in found.items()):
        return Finding("ARRAY_OF_ANOTHER_RUN", (name,)), None
    return None, sketch(image)


def _copies(one: _Contents, other: _Contents, sides: Mapping[str, str]) -> list[Finding]:
    """Volumes with the same voxels, or that look the same, on different sides."""
    from medssl.store.twins import near_duplicates

    same: dict[tuple[Any, ...], list[str]] = {}
    for name, content in {**one.checksums, **other.checksums}.items():
        same.setdefault(content, []).append(name)
    found = {pair: "" for names in same.values() for pair in combinations(sorted(names), 2)}
    findings = [Finding("SAME_VOXELS", pair, _both(sides, *pair)) for pair in found if sides[pair[0]] != sides[pair[1]]]
    sketches = {**one.sketches, **other.sketches}
    names = sorted(sketches)
    for first, second, alike in near_duplicates([sketches[name] for name in names]):
        pair = names[first], names[second]
        if pair not in found and sides[pair[0]] != sides[pair[1]]:
            findings.append(Finding("NEAR_DUPLICATE", pair, f"{_both(sides, *pair)}, correlation {alike:.3f}"))
    return findings


def _both(sides: Mapping[str, str], first: str, second: str) -> str:
    return f"{sides[first]} and {sides[second]}"


def _between(one: _Contents, other: _Contents) -> list[Finding]:
    """Who is learned from in one and judged on in the other."""
    import pandas as pd

    learned = one.volumes[one.volumes["split"] == "train"]
    judged = other.volumes[other.volumes["split"] != "train"]
    both = pd.concat([learned, judged])
    sides = pd.Series([LEARNED] * len(learned) + [JUDGED] * len(judged), index=both.index)
    people = people_on_both_sides(both.reset_index(drop=True), sides.reset_index(drop=True))
    twice = sorted(set(learned.index) & set(judged.index))
    found = [Finding("SAME_VOXELS", (name,), f"{JUDGED} and {LEARNED}") for name in twice]
    return people + found + _copies(_only(one, learned), _only(other, judged), _sides(sides))


def _sides(sides: pd.Series) -> dict[str, str]:
    """The side of each volume by its id, the first where an id is there twice."""
    return {str(name): str(side) for name, side in sides[~sides.index.duplicated()].items()}


def _only(content: _Contents, volumes: pd.DataFrame) -> _Contents:
    names = set(volumes.index)
    return _Contents(
        volumes=volumes, faults=[], damage=[],
        sketches={name: one for name, one in content.sketches.items() if name in names},
        checksums={name: one for name, one in content.checksums.items() if name in names},
    )  # fmt: skip
