"""Thumbnails: the middle slice of some volumes, drawn by a process of its own that may hang or die at a broken file.

That process is this module run as a program: a line of JSON in (what to open), a line of JSON out (the PNG or a reason).
Paths, which may name patients, never are in its arguments, and what decoders print is dropped.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from medssl.volume import Volume

LONGEST_SIDE = 150
"""Pixels of a thumbnail's longest side."""

SECONDS = 60.0
"""How long one volume may take."""

MEMORY = 8 << 30
"""Bytes of address space that the drawing process may use."""

CT_WINDOW = (-1000.0, 400.0)
"""Hounsfield units from black to white: lung, fat, organs and the edge of bone in one picture."""

PERCENTILES = (1.0, 99.0)
"""What is black and white where intensities have no unit."""

SAME_SPACING = 1.2
"""Ratio of spacings up to which a volume counts as isotropic and is shown in its axial plane."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A volume's facts and its picture (PNG), or the reason why there is none."""

    volume_id: str
    modality: str
    role: str
    scanner: str
    shape: tuple[int, ...]
    png: bytes = b""
    reason: str = ""


def draw(cohort: Path, volumes: pd.DataFrame, count: int, progress: Progress) -> list[Thumbnail]:
    """Thumbnails of at most `count` kept volumes, taken in turn from every modality, role and scanner."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in chosen(volumes, count).to_dict("records")
    ]
    if not rows:
        return []
    sources = pd.read_parquet(cohort / "phi" / "sources.parquet")
    sources = sources[sources["volume_id"].isin([row["volume_id"] for row in rows])].sort_values("order")
    files = {name: [*part["archive"] + "/" + part["path"]] for name, part in sources.groupby("volume_id")}
    asked = [_request(row, files.get(row["volume_id"], [])) for row in rows]
    answers = progress(_answers(asked), "drawing thumbnails", len(asked))
    return [
        Thumbnail(
            volume_id=row["volume_id"], modality=row["modality"], role=row["role"], scanner=row["scanner"],
            shape=tuple(int(n) for n in row["shape"]), png=base64.b64decode(answer.get("png", "")),
            reason=answer.get("reason", ""),
        )
        for row, answer in zip(rows, answers, strict=True)
    ]  # fmt: skip


def chosen(volumes: pd.DataFrame, count: int) -> pd.DataFrame:
    """Kept volumes for a picture: of each modality in turn, of its roles in turn, of their scanners in turn."""
    kept = volumes[volumes["status"] != "excluded"].sort_values(["modality", "role", "scanner", "volume_id"])
    kept = kept.assign(turn=0)
    for within in ["modality", "role", "scanner"], ["modality", "role"], ["modality"]:
        kept = kept.assign(turn=kept.groupby(within).cumcount())
        kept = kept.sort_values(["turn", "modality", "role", "scanner"])
    return kept.head(count).sort_values(["modality", "role", "scanner", "volume_id"])


def _request(row: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """What to open. Of a stack with a file for each slice the middle file is enough."""
    stacked = row["source_kind"] == "dicom" and len(paths) > 1 and len(paths) == int(row["shape"][-1])
    return {
        "paths": [paths[len(paths) // 2]] if stacked else [*paths], "stacked": stacked, "modality": row["modality"],
        "affine": [float(x) for x in row["affine"]], "shape": [int(n) for n in row["shape"]],
    }  # fmt: skip


def _answers(requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """An answer for each request. A request at which the process dies or hangs gets a reason; the next a new process."""
    command = [sys.executable, "-m", "medssl.manifest.thumbnails"]
    waiting = list(requests)
    while waiting:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_until_ready(process)
                while waiting:
                    answer = _ask(process, waiting.pop(0))
                    yield answer
                    if answer.get("reason") in ("DECODER_CRASH", "TIMEOUT"):
                        break
            finally:
                process.kill()


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Nothing, once the process has loaded its libraries: on a busy machine that may take longer than a picture may."""
    assert process.stdout is not None
    process.stdout.readline()


def _ask(process: subprocess.Popen[bytes], request: dict[str, Any]) -> dict[str, str]:
    assert process.stdin is not None and process.stdout is not None
    try:
        os.write(process.stdin.fileno(), json.dumps(request).encode() + b"\n")
    except BrokenPipeError:
        return {"reason": "DECODER_CRASH"}
    # An answer is one line, written at once: when its first byte is there, so is the rest very soon.
    if not select.select([process.stdout], [], [], SECONDS)[0]:
        return {"reason": "TIMEOUT"}
    line = process.stdout.readline()
    return json.loads(line) if line.endswith(b"\n") else {"reason": "DECODER_CRASH"}


def picture(request: dict[str, Any]) -> dict[str, str]:
    """The answer to one request: the PNG (base64) of the middle slice, or the reason code why there is none."""
    import warnings

    from medssl.archive.reasons import Refusal

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"png": base64.b64encode(png(*plane(_open(request)))).decode()}
    except Refusal as refusal:
        return {"reason": refusal.code}
    except FileNotFoundError:
        return {"reason": "SOURCE_MISSING"}
    except MemoryError:
        return {"reason": "TOO_LARGE"}
    except Exception:  # a broken file breaks a reader in any way; the text of the error may name a patient
        return {"reason": "UNREADABLE"}


def _open(request: dict[str, Any]) -> Volume:
    from medssl.archive import open_volume, read_stack
    from medssl.archive.headers import read_header
    from medssl.archive.series import Stack

    paths = [Path(path) for path in request["paths"]]
    if not paths or not all(path.exists() for path in paths):
        raise FileNotFoundError
    if not request["stacked"]:
        return open_volume(paths[0] if len(paths) == 1 else paths, modality=request["modality"])
    import numpy as np

    header = read_header(paths[0])
    affine = np.reshape(request["affine"], (4, 4))
    return read_stack(Stack(headers=(header,), affine=affine, modality=request["modality"], oriented=header.oriented))


def plane(volume: Volume) -> tuple[np.ndarray, tuple[float, float]]:
    """The middle slice as grey values in 0..255, rows downwards, and the millimetres of a row and of a column.

    Patients are shown as radiologists look at them: the head or the front up, the patient's left on the right (axial and
    coronal) or the front on the left (sagittal). The slice is across the coarsest axis, of an isotropic volume axial; of
    an OCT it is the middle B-scan. Where the voxel size is unknown the voxels are square.
    """
    import numpy as np

    volume = volume.reorient("LPS") if volume.oriented else volume
    shape, spacing = volume.shape, volume.spacing if volume.spacing_source != "unknown" else (1.0, 1.0, 1.0)
    axis = _across(volume)
    middle = [slice(None), slice(None), slice(None)]
    middle[axis] = slice(shape[axis] // 2, shape[axis] // 2 + 1)
    values = np.squeeze(volume.voxels[0][*middle], axis).astype(np.float32)
    valid = None if volume.valid is None else np.squeeze(volume.valid[*middle], axis)
    grey = _grey(values, valid, volume).T
    across, down = (n for n in range(3) if n != axis)
    upwards = volume.oriented and axis != 2  # in LPS only the third axis grows towards the head
    return grey[::-1] if upwards else grey, (spacing[down], spacing[across])


def _across(volume: Volume) -> int:
    if min(volume.shape) == 1:
        return volume.shape.index(1) if volume.shape[2] > 1 else 2
    if not volume.oriented and volume.modality == "OPT":
        return 1
    coarse = max(range(3), key=lambda n: volume.spacing[n])
    return coarse if volume.spacing[coarse] > SAME_SPACING * min(volume.spacing) else 2


def _grey(values: np.ndarray, valid: np.ndarray | None, volume: Volume) -> np.ndarray:
    """Grey values in 0..255 by the modality's window; black where nothing was measured or nothing varies."""
    import numpy as np

    real = np.isfinite(values) if valid is None else np.isfinite(values) & valid
    if volume.modality == "CT":
        low, high = CT_WINDOW
    elif volume.voxels.dtype == np.uint8 and volume.modality != "MR":
        low, high = 0.0, 255.0
    else:
        low, high = (float(np.percentile(values[real], q)) for q in PERCENTILES) if real.any() else (0.0, 0.0)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    shown = np.clip((np.where(real, values, low) - low) / (high - low), 0, 1) * 255
    return np.where(real, shown, 0).astype(np.uint8)


def png(grey: np.ndarray, millimetres: tuple[float, float]) -> bytes:
    """A PNG whose sides are as long as the slice's are in millimetres. `millimetres` are those of a row and a column."""
    import io

    import numpy as np
    from PIL import Image

    height, width = grey.shape[0] * millimetres[0], grey.shape[1] * millimetres[1]
    scale = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    """Nothing; answers each line of standard input with a line on standard output."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
    # Libraries print to standard output too; only answers may go where answers are read.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import PIL.Image  # noqa: F401
    import pydicom  # noqa: F401

    import medssl.archive.files  # noqa: F401

    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(picture(json.loads(line))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
