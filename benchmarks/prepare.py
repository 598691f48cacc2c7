"""The whole preparation of a CT volume: medssl against the equivalent pipelines of MONAI and TorchIO.

Example: OMP_NUM_THREADS=1 python benchmarks/prepare.py --rounds 7

Each reads a .nii.gz, turns it to RAS, resamples it linearly to --spacing, clips HU to a window, scales it to -1..1 and
writes the result. medssl also verifies the gzip checksum, finds the padding and keeps it out, averages over the voxel
where the new grid is coarser, and writes float16 compressed, with checksums, flushed to the disk. MONAI and TorchIO
write what is cheapest for them, an uncompressed float32 NumPy file; "packed" is their compressed NIfTI, as their writers
make it. TorchIO averages too ("smooth") or not. All take turns in every round, in random order, on one thread; times
are CPU milliseconds of this process, the median over rounds.

MONAI is a dependency of medssl, TorchIO is not: python -m venv peers; peers/bin/pip install -e . torchio
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from crops import scan

from medssl.store import Preparation
from medssl.store.case import Case, prepare_case

WINDOW = (-1000.0, 1000.0)
OURS = "medssl"
Spacing = tuple[float, float, float]


def ours(source: Path, folder: Path, shape: tuple[int, ...], old: Spacing, new: Spacing) -> Callable[[int], None]:
    """A function that prepares the volume as number n."""
    settings = Preparation(ct_spacing=new, ct_window=WINDOW)

    def once(number: int) -> None:
        name = f"ours{number}"
        case = Case(
            volume_id=name,
            modality="CT",
            shape=shape,
            spacing=old,
            sources=(source,),
            checksums=(None,),
            mask=None,
            settings=settings,
            preparation_hash="",
            folder=folder / name,
        )
        row = prepare_case(case)
        if row["prepared_status"] != "ok":
            raise SystemExit(f"medssl: {row['prepared_reason']}")

    return once


def monai(source: Path, folder: Path, new: Spacing, packed: bool) -> Callable[[int], None]:
    """MONAI's transforms, written as .npy or by its own writer as .nii.gz."""
    from monai.transforms import Compose, LoadImage, Orientation, SaveImage, ScaleIntensityRange, Spacing

    steps = Compose(
        [
            LoadImage(reader="NibabelReader", image_only=True, ensure_channel_first=True),
            Orientation(axcodes="RAS", labels=None),
            Spacing(pixdim=new, mode="bilinear", padding_mode="border"),
            ScaleIntensityRange(a_min=WINDOW[0], a_max=WINDOW[1], b_min=-1.0, b_max=1.0, clip=True),
        ]
    )
    save = SaveImage(output_dir=folder, output_ext=".nii.gz", separate_folder=False, print_log=False)

    def once(number: int) -> None:
        image = steps(str(source))
        if packed:
            save(image)
        else:
            np.save(folder / "monai.npy", image.numpy())

    return once


def torchio(source: Path, folder: Path, new: Spacing, smooth: bool, packed: bool) -> Callable[[int], None]:
    """TorchIO's transforms, written as .npy or by its own writer as .nii.gz."""
    import torchio as tio

    steps = tio.Compose(
        [
            tio.ToCanonical(),
            tio.Resample(new, image_interpolation="linear", antialias=smooth),
            tio.RescaleIntensity((-1.0, 1.0), in_min_max=WINDOW),
        ]
    )

    def once(number: int) -> None:
        image = steps(tio.ScalarImage(source))
        if packed:
            image.save(folder / "torchio.nii.gz")
        else:
            np.save(folder / "torchio.npy", image.numpy())

    return once


def ways(
    source: Path, folder: Path, shape: tuple[int, ...], old: Spacing, new: Spacing
) -> dict[str, Callable[[int], None]]:
    """Preparations by name."""
    found = {
        OURS: ours(source, folder, shape, old, new),
        "MONAI": monai(source, folder, new, packed=False),
        "MONAI packed": monai(source, folder, new, packed=True),
    }
    try:
        return found | {
            "TorchIO": torchio(source, folder, new, smooth=False, packed=False),
            "TorchIO smooth": torchio(source, folder, new, smooth=True, packed=False),
            "TorchIO packed": torchio(source, folder, new, smooth=False, packed=True),
        }
    except ImportError:
        sys.stdout.write("torchio: not installed, left out; --help says how to get it\n")
        return found


def measure(ways: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of every preparation, by name."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first round warms the caches
        for name in rng.permutation(list(ways)):
            before = time.process_time()
            ways[name](number)
            if number:
                times[name].append(1e3 * (time.process_time() - before))
    return times


def main() -> None:
    """Nothing; the tables are on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 128), help="voxels (256 256 128)")
    parser.add_argument("--old", type=float, nargs=3, default=(0.9, 0.9, 1.25), help="their size in mm (0.9 0.9 1.25)")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.5, 1.5, 1.5), help="wanted, in mm (1.5 1.5 1.5)")
    parser.add_argument("--rounds", type=int, default=7, help="volumes for every pipeline (7)")
    given = parser.parse_args()
    if given.rounds < 1 or min(*given.old, *given.spacing, *given.shape) <= 0:
        parser.error("--rounds, --shape, --old and --spacing must be above 0")
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    shape, old, new = tuple(given.shape), tuple(given.old), tuple(given.spacing)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = folder / "scan.nii.gz"
        nib.save(nib.Nifti1Image(scan(shape, 0), np.diag([-old[0], -old[1], old[2], 1.0])), source)
        times = measure(ways(source, folder, shape, old, new), given.rounds)
    base = float(np.median(times[OURS]))
    lines = [f"{shape} int16 of {old} mm to {new} mm, {given.rounds} rounds, CPU ms per volume"]
    lines.append(f"{'pipeline':<18}{'median':>8}{'p10':>8}{'p90':>8}{'x medssl':>10}")
    for name, spent in times.items():
        p10, median, p90 = np.percentile(spent, (10, 50, 90))
        lines.append(f"{name:<18}{median:>8.0f}{p10:>8.0f}{p90:>8.0f}{median / base:>10.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
