"""A page of pictures of a phantom archive, to judge by eye whether it looks scanned."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.errors import UserError


def contact_sheet(archive: Path | str, picture: Path | str) -> Path:
    """The path of a PNG with one image a modality of an archive that `write_archive` wrote."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _pictures(Path(archive))
    if not shown:
        raise UserError(f"{archive} holds no scans of a phantom archive; write one with write_archive first")
    columns = 4
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, image, aspect) in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.imshow(image, cmap="gray", aspect=aspect)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(picture, dpi=90)
    return Path(picture)


def _pictures(archive: Path) -> list[tuple[str, np.ndarray, float]]:
    """(title, image, height of a pixel over its width), only for what the archive holds."""
    shown = [_npz(path) for path in sorted(archive.glob("oct_npz/*.npz"))[:2]]
    shown += [_opt(path) for path in sorted(archive.glob("pacs/FAKE-E*/*/*/*.dcm"))[:2]]
    for title, folder in (("T2w", "P*/ST01/SE01"), ("ADC", "P*/ST01/SE02"), ("high b", "P*/ST01/SE03")):
        shown += [_slice(title, path) for path in sorted(archive.glob(f"pacs/FAKE-{folder}"))[:1]]
    shown += [_slice("CT", path) for path in sorted(archive.glob("pacs/FAKE-C*/ST01/SE01"))[:1]]
    shown += [_film(path) for path in sorted(archive.glob("pacs/FAKE-X*/ST01/SE01/*.dcm"))[:2]]
    shown += [_head(path) for path in sorted(archive.glob("nifti/FAKE-H*.nii.gz"))[:2]]
    return shown


def _npz(path: Path) -> tuple[str, np.ndarray, float]:
    with np.load(path, allow_pickle=False) as content:
        volume = content["oct_bscans"]
    return f"OCT (NPZ) {path.stem[:10]}", volume[len(volume) // 2 - 4], 0.5


def _opt(path: Path) -> tuple[str, np.ndarray, float]:
    import pydicom

    image = pydicom.dcmread(path)
    return f"OCT (OPT) {image.PatientID}", image.pixel_array[int(image.NumberOfFrames) // 2 - 4], 0.5


def _slice(title: str, series: Path) -> tuple[str, np.ndarray, float]:
    import pydicom

    slices = sorted(series.glob("*.dcm"))
    image = pydicom.dcmread(slices[len(slices) // 2])
    pixels = image.pixel_array.astype(np.float64)
    return f"{title} {image.PatientID}", np.maximum(pixels, 0) if title == "CT" else pixels, 1.0


def _film(path: Path) -> tuple[str, np.ndarray, float]:
    import pydicom

    image = pydicom.dcmread(path)
    top = 2 ** int(image.BitsStored) - 1
    shown = top - image.pixel_array if image.PhotometricInterpretation == "MONOCHROME1" else image.pixel_array
    return f"film {image.ViewPosition} {image.PatientID}", shown, 1.0


def _head(path: Path) -> tuple[str, np.ndarray, float]:
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(path))
    voxels = np.asanyarray(image.dataobj)
    return f"T1w {path.name[:10]}", voxels[::-1, ::-1, voxels.shape[2] // 2 + 3].T, 1.0
