"""Volumes that a model is not asked about: a closed table of reasons, beside those of the archive and of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from medssl.atomic import replacing

REASONS = {
    "OTHER_MODALITY": "give it to a model of its modality; a data card can say that of files which do not (modality: MR)",
    "OTHER_FORM": "give it to a model of its form: pictures and volumes are not seen alike",
    "OTHER_ROLE": "give it to a model of its sequence; a data card can say that of files which do not (column role)",
    "OTHER_CHANNELS": "give it to a model of as many channels",
    "OTHER_VISIT": "the last visit of its series is answered, and this one looked at if it lies before it",
    "SPACING_OUTSIDE": "take a reconstruction within that, or fine-tune with volumes such as this one",
    "TOO_FEW_PIXELS": "take the picture in its own size, not a thumbnail of it",
    "TOO_FEW_SLICES": "take a scan that covers more, or fine-tune with volumes such as this one",
}
"""Code -> what to do."""

FOR_ITS_OWNER = 0o600
"""Permissions of the list: names of files often name patients."""


class Refused(NamedTuple):
    """A volume or a file that is not answered: the code, and a sentence with value, law and remedy. `path` is of its first
    file, relative to the input; the rest is "" where it is not known.
    """

    volume_id: str
    path: str
    reason: str
    told: str


def refused(volume_id: str, code: str, what: str) -> Refused:
    """A volume that is outside of what a model was trained on, as `what` says."""
    return Refused(volume_id, "", code, f"{what}; {REASONS[code]}")


def write_refused(path: Path, rows: Sequence[Refused]) -> None:
    """Nothing; the CSV `path` lists what is not answered, also where that is nothing. Only its owner may read it."""
    with replacing(path) as part:
        part.touch(mode=FOR_ITS_OWNER)
        pd.DataFrame(rows, columns=Refused._fields).to_csv(part, index=False)
