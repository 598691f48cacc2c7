"""Thumbnails: the middle slice of some volumes. A file that hangs, crashes its decoder or is damaged costs one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.manifest.cohort import read_sources
from medssl.progress import Progress
from medssl.units import Work, map_units

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from medssl.volume import Volume

LONGEST_SIDE = 150
"""Pixels of a thumbnail's longest side."""

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


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A thumbnail to be made, and what to open for it; `stacked`: one file of a stack with a file for each slice."""

    place: int
    thumbnail: Thumbnail
    paths: tuple[Path, ...]
    frames: tuple[tuple[int, ...], ...]
    stacked: bool
    affine: tuple[float, ...]


def draw(cohort: Path, volumes: pd.DataFrame, count: int, work: Work, progress: Progress) -> list[Thumbnail]:
    """Thumbnails of at most `count` kept volumes, taken in turn from every modality, role and scanner; none where phi/,
    with the places of the files, is not there.
    """
    rows = chosen(volumes, count)
    if not len(rows) or not (cohort / "phi").exists():
        return []
    sources = read_sources(cohort)
    sources = sources[sources["volume_id"].isin(rows["volume_id"])].sort_values("order")
    files = {
        str(name): [
            (Path(row["archive"], row["path"]), tuple(row.get("frames", ()))) for row in part.to_dict("records")
        ]
        for name, part in sources.groupby("volume_id")
    }
    asked = [_drawing(place, row, files.get(row["volume_id"], [])) for place, row in enumerate(rows.to_dict("records"))]
    done = progress(map_units(drawn, asked, work, failed=_lost), "drawing thumbnails", len(asked))
    return [drawing.thumbnail for drawing in sorted(done, key=lambda drawing: drawing.place)]


def chosen(volumes: pd.DataFrame, count: int) -> pd.DataFrame:
    """Kept volumes for a picture: of each modality in turn, of its roles in turn, of their scanners in turn."""
    kept = volumes[volumes["status"] != "excluded"].sort_values(["modality", "role", "scanner", "volume_id"])
    kept = kept.assign(turn=0)
    for within in ["modality", "role", "scanner"], ["modality", "role"], ["modality"]:
        kept = kept.assign(turn=kept.groupby(within).cumcount())
        kept = kept.sort_values(["turn", "modality", "role", "scanner"])
    return kept.head(count).sort_values(["modality", "role", "scanner", "volume_id"])


def _drawing(place: int, row: Any, files: Sequence[tuple[Path, tuple[int, ...]]]) -> Drawing:
    shape = tuple(int(n) for n in row["shape"])
    facts = {name: row[name] for name in ("volume_id", "modality", "role", "scanner")}
    stacked = row["source_kind"] == "dicom" and 1 < len(files) == shape[-1]
    opened = files[len(files) // 2 :][:1] if stacked else files
    return Drawing(
        place=place, thumbnail=Thumbnail(**facts, shape=shape), stacked=stacked,
        paths=tuple(path for path, _ in opened), frames=tuple(frames for _, frames in opened),
        affine=tuple(float(x) for x in row["affine"]),
    )  # fmt: skip


def _lost(drawing: Drawing, reason: str) -> Drawing:
    return replace(drawing, thumbnail=replace(drawing.thumbnail, reason=reason))


def drawn(drawing: Drawing) -> Drawing:
    """The drawing with its picture, or with the reason code why there is none."""
    import warnings

    from medssl.archive.reasons import Refusal

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries quote paths and values of broken files
            return replace(drawing, thumbnail=replace(drawing.thumbnail, png=png(*plane(_open(drawing)))))
    except Refusal as refusal:
        return _lost(drawing, refusal.code)
    except FileNotFoundError:
        return _lost(drawing, "SOURCE_MISSING")
    except MemoryError:
        return _lost(drawing, "TOO_LARGE")
    except Exception:  # a broken file breaks a reader in any way
        return _lost(drawing, "UNREADABLE")


def _open(drawing: Drawing) -> Volume:
    from medssl.archive import open_volume, read_stack
    from medssl.archive.headers import read_header
    from medssl.archive.series import Stack

    paths, modality = drawing.paths, drawing.thumbnail.modality
    if not paths or not all(path.exists() for path in paths):
        raise FileNotFoundError
    if not drawing.stacked:
        return open_volume(paths[0] if len(paths) == 1 else paths, modality=modality, frames=drawing.frames)
    import numpy as np

    header = replace(read_header(paths[0]), frames=drawing.frames[0])
    affine = np.reshape(drawing.affine, (4, 4))
    return read_stack(Stack(headers=(header,), affine=affine, modality=modality, oriented=header.oriented))


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
