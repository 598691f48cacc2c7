"""A cohort in the forms of other tools, and theirs as a card and a table that `medssl index` reads.

BIDS: participants.tsv and participants.json (bids-specification.readthedocs.io, "Participants file"). nnssl and OpenMind:
pretrain_data.json, a collection of data sets of subjects of sessions of images.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.manifest.cohort import read_cohort, read_sources
from medssl.manifest.demographics import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

BIDS_COLUMNS = {
    "participant_id": "Pseudonym of the patient, keyed: only who has the key can find the person.",
    "age": "Age at the first study, capped at 90.",
    "sex": "Sex as the archive or its table tells it.",
    "race": "As its source chose it; see race_source.",
    "race_source": "Where race comes from.",
    "ethnicity": "As its source chose it.",
    "site": "Where the patient was seen.",
    "split": "Whether the patient is learned from or judged on.",
}
"""Columns of participants.tsv, and what participants.json says of them."""

NNSSL_ENDINGS = (".nii", ".nii.gz", ".nrrd")
"""Files that nnssl can prepare; all of a collection must have the same."""

INFORMATION = {"age": "age_years", "sex": "sex", "race": "race", "ethnicity": "ethnicity", "site": "site"}
"""What a subject's free information may hold, and our names for it."""


def export_bids(cohort: Path | str, folder: Path | str) -> Path:
    """The path of participants.tsv in `folder`, one row for each patient with a usable volume; n/a is: not known."""
    tables = read_cohort(cohort)
    people = tables.patients[tables.patients["n_volumes"] > 0].sort_values("patient_pid")
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    writer.writerow(BIDS_COLUMNS)
    for row in people.to_dict("records"):
        told = {"participant_id": f"sub-{row['patient_pid']}", "age": row["age_years"]}
        writer.writerow(_cell(told.get(name, row.get(name))) for name in BIDS_COLUMNS)
    about: dict[str, Any] = {name: {"Description": text} for name, text in BIDS_COLUMNS.items()}
    about["age"]["Units"] = "years"
    about["sex"]["Levels"] = {"F": "female", "M": "male", "O": "other"}
    path = Path(folder) / "participants.tsv"
    write_text(path, out.getvalue())
    write_json(path.with_suffix(".json"), about)
    return path


def _cell(value: object) -> str:
    """A value as BIDS writes it; words of a user's table lose what would break the row."""
    if value is None or value == "" or value == UNKNOWN or value != value:
        return "n/a"
    return f"{value:g}" if isinstance(value, float) else re.sub(r"\s+", " ", str(value)).strip()


def export_nnssl(cohort: Path | str, folder: Path | str, *, name: str) -> tuple[Path, int]:
    """The path of pretrain_data.json in `folder` and how many usable volumes for training are not in it.

    Only volumes of the split train are written: pretraining on those who are judged would be a leak. Volumes of several
    files (DICOM) and of endings that nnssl cannot read are not written either. The file holds paths of the archive, so
    it is readable by its owner alone. Raises UserError when nothing is left.
    """

    cohort, path = Path(cohort), Path(folder) / "pretrain_data.json"
    tables = read_cohort(cohort)
    volumes = tables.volumes.query("status != 'excluded' and split == 'train'").merge(
        tables.patients[["patient_pid", "sex", "race", "ethnicity"]], on="patient_pid", validate="many_to_one"
    )
    sources = read_sources(cohort)
    single = sources[~sources["volume_id"].duplicated(keep=False) & sources["path"].str.endswith(NNSSL_ENDINGS)]
    listed = volumes.merge(single[["volume_id", "path", "archive"]], on="volume_id", validate="one_to_one")
    if listed.empty:
        raise UserError(f"{cohort}: no volume for training in a file that nnssl reads ({', '.join(NNSSL_ENDINGS)})")
    subjects = {
        str(pid): _subject(str(pid), rows) for pid, rows in listed.sort_values("volume_id").groupby("patient_pid")
    }
    dataset = {"dataset_index": 1, "name": name, "dataset_info": None, "subjects": subjects}
    content = {"collection_index": 1, "collection_name": name, "datasets": {"1": dataset}}
    write_json(path, content)
    path.chmod(0o600)
    return path, len(volumes) - len(listed)


def _subject(pid: str, rows: pd.DataFrame) -> dict[str, Any]:
    sessions: dict[str, Any] = {}
    for row in rows.to_dict("records"):
        session = str(row["study_pid"] or row["volume_id"])
        place = sessions.setdefault(session, {"session_id": session, "session_info": None, "images": []})
        place["images"].append(
            {"name": str(row["volume_id"]) + _ending(row["path"]), "image_path": str(Path(row["archive"]) / row["path"]),
             "modality": row["role"] or row["modality"], "image_info": None, "associated_masks": None}
        )  # fmt: skip
    first = rows.iloc[0]
    told = {theirs: first[ours] for theirs, ours in INFORMATION.items()}
    known = {key: value for key, value in told.items() if _cell(value) != "n/a"}
    return {"subject_id": pid, "subject_info": known, "sessions": sessions}


def _ending(path: str) -> str:
    return next(ending for ending in sorted(NNSSL_ENDINGS, key=len, reverse=True) if path.endswith(ending))


def import_nnssl(source: Path | str, archive: Path | str, folder: Path | str) -> Path:
    """The path of a card in `folder`, with a table beside it, by which `medssl index ARCHIVE --card` reads a collection.

    Paths that begin with a variable ($nnssl_raw) are resolved. Masks of faces and anatomy are not images and are left
    out, as is every file that the collection does not list. Raises UserError for a file that is none, and for an image
    outside the archive.
    """
    source, archive, folder = Path(source), Path(archive), Path(folder)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        rows = list(_images(content, archive))
    except FileNotFoundError:
        raise UserError(f"{source}: no such file; give the pretrain_data.json of a collection") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: not a pretrain_data.json ({type(error).__name__}: {error}); see nnssl") from None
    out = io.StringIO()
    writer = csv.DictWriter(out, ["file", "patient_id", "modality", *INFORMATION.values()], restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "images.csv", out.getvalue())
    columns = {name: name for name in ("file", "patient_id", "modality", *INFORMATION.values())}
    card = {
        "name": re.sub(r"\W+", "_", str(content["collection_name"])),
        "table": str((folder / "images.csv").resolve()),
        "key": "file",
        "only_listed": "true",
        "columns": columns,
        "splits": {"train": "1.0"},
    }
    import yaml

    write_text(folder / "card.yaml", yaml.safe_dump(card, sort_keys=False))
    return folder / "card.yaml"


def _images(content: Mapping[str, Any], archive: Path) -> Iterator[dict[str, str]]:
    for number, dataset in content["datasets"].items():
        for subject, told in dataset["subjects"].items():
            known = told.get("subject_info") or {}
            about = {ours: str(known[theirs]) for theirs, ours in INFORMATION.items() if known.get(theirs) is not None}
            for session in told["sessions"].values():
                for image in session["images"]:
                    code = "MR" if re.fullmatch(r"(?i)mr.*|t1.*|t2.*|flair|dwi|adc|hbv|pd.*", image["modality"]) else ""
                    yield {
                        "file": _below(_resolved(image["image_path"]), archive), "patient_id": f"{number}/{subject}",
                        "modality": code or str(image["modality"]).upper(), **about,
                    }  # fmt: skip


def _resolved(path: str) -> Path:
    first, _, rest = path.partition("/")
    if not first.startswith("$"):
        return Path(path)
    if first[1:] not in os.environ:
        raise UserError(f"{first}: the collection's paths begin with it, but it is not set; export {first[1:]}=FOLDER")
    return Path(os.environ[first[1:]]) / rest


def _below(path: Path, archive: Path) -> str:
    """The path relative to the archive."""
    whole = path if path.is_absolute() else archive / path
    try:
        name = whole.resolve().relative_to(archive.resolve()).as_posix()
    except ValueError:
        raise UserError(
            f"{archive}: an image of the collection lies outside it; give the folder that holds all"
        ) from None
    return str(PurePosixPath(name))
