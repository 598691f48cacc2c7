"""The whole preparation of a CT volume: medssl against the equivalent pipelines of MONAI and TorchIO, like for like.

Example: OMP_NUM_THREADS=1 python benchmarks/prepare.py --rounds 7

Each reads the same .nii.gz, turns it to RAS, resamples it linearly to one and the same grid, clips HU to a window, scales
it to -1..1 and writes the result. Four comparisons: the coarser voxel averaged first or not (a Gaussian as wide as the
voxel; medssl averages unless told otherwise, MONAI by a transform of its own, TorchIO by an option), and what is
cheapest to write, an uncompressed float32 NumPy file, or what each writes to keep ("packed": medssl's float16 shard and
valid mask, compressed, with checksums and flushed to the disk; the others' .nii.gz by their own writers). medssl also
verifies the gzip checksum, finds the padding and keeps it out of what it mixes.

All take turns in every round, in random order, on one thread of one process; times are milliseconds of CPU and on the
clock, the median over rounds, and ratios are medians of each round's own. That all do the same work is checked first:
voxels are compared with medssl's, in HU, away from the edge, where only medssl keeps tissue apart from padding.

MONAI is a dependency of medssl, TorchIO is not: python -m venv peers; peers/bin/pip install -e . torchio
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from crops import scan
from scipy.ndimage import binary_erosion

from medssl import open_volume
from medssl.store import Preparation
from medssl.store.case import Case, prepare_case
from medssl.store.channels import own_channel
from medssl.store.grids import put_on_grid
from medssl.volume import Volume

WINDOW = (-1000.0, 1000.0)
OURS = "medssl"
FULL_WIDTH = 2.355
"""At half maximum of a Gaussian, in standard deviations."""

EDGE = 5
"""Voxels that are not compared."""

Spacing = tuple[float, float, float]
Prepare = Callable[[int], object]


@dataclass(frozen=True)
class Work:
    """The file to prepare, where results go, and the grid they have."""

    source: Path
    folder: Path
    old: Spacing
    settings: Preparation
    grid: Volume

    @property
    def sigma(self) -> list[float]:
        """Of the Gaussian that averages over a coarser voxel, in old voxels."""
        step = np.divide(self.grid.spacing, self.old)
        return [max(1e-3, float(s)) for s in np.sqrt(np.maximum(step**2 - 1, 0)) / FULL_WIDTH]


def ours(work: Work, averaged: bool, packed: bool) -> Prepare:
    """medssl's own preparation, or the part of it before the shard is written and the voxels as .npy."""
    shape = tuple(nib.load(work.source).shape)

    def packed_once(number: int) -> None:
        name = f"ours{number}{averaged}"
        case = Case(
            volume_id=name,
            modality="CT",
            shape=shape,
            spacing=work.old,
            sources=(work.source,),
            checksums=(None,),
            mask=None,
            settings=work.settings,
            preparation_hash="",
            folder=work.folder / name,
        )
        row = prepare_case(case)
        if row["prepared_status"] != "ok":
            raise SystemExit(f"medssl: {row['prepared_reason']}")

    def plain_once(_: int) -> np.ndarray:
        image = open_volume(work.source, modality="CT")
        voxels = own_channel(put_on_grid(image, work.settings), image, work.settings).normal.voxels
        np.save(work.folder / "medssl.npy", voxels)
        return voxels

    def once(number: int) -> object:
        with patch("medssl.resample.SHARPEST_BLUR", 0.01 if averaged else np.inf):
            return packed_once(number) if packed else plain_once(number)

    return once


def monai(work: Work, averaged: bool, packed: bool) -> Prepare:
    """MONAI's transforms, in single precision (its default is double), written as .npy or by its own writer as .nii.gz."""
    from monai.transforms import (
        Compose,
        GaussianSmooth,
        LoadImage,
        Orientation,
        SaveImage,
        ScaleIntensityRange,
        SpatialResample,
    )

    first = [
        LoadImage(reader="NibabelReader", image_only=True, ensure_channel_first=True),
        Orientation(axcodes="RAS", labels=None),
    ]
    before = Compose([*first, GaussianSmooth(work.sigma, approx="sampled")] if averaged else first)
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float32)
    scale = ScaleIntensityRange(a_min=WINDOW[0], a_max=WINDOW[1], b_min=-1.0, b_max=1.0, clip=True)
    affine = torch.as_tensor(work.grid.affine)
    save = SaveImage(output_dir=work.folder, output_ext=".nii.gz", separate_folder=False, print_log=False)

    def once(_: int) -> np.ndarray:
        image = scale(resample(before(str(work.source)), dst_affine=affine, spatial_size=work.grid.shape))
        if packed:
            save(image)
        else:
            np.save(work.folder / "monai.npy", image.numpy())
        return image.numpy()

    return once


def torchio(work: Work, averaged: bool, packed: bool) -> Prepare:
    """TorchIO's transforms, written as .npy or by its own writer as .nii.gz."""
    import torchio as tio

    target = work.grid.shape, work.grid.affine
    steps = tio.Compose(
        [
            tio.ToCanonical(),
            tio.Resample(target, image_interpolation="linear", antialias=averaged),
            tio.Clamp(*WINDOW),
            tio.RescaleIntensity((-1.0, 1.0), in_min_max=WINDOW),
        ]
    )

    def once(_: int) -> np.ndarray:
        image = steps(tio.ScalarImage(work.source))
        if packed:
            image.save(work.folder / "torchio.nii.gz")
        else:
            np.save(work.folder / "torchio.npy", image.numpy())
        return image.numpy()

    return once


PEERS = {OURS: ours, "MONAI": monai, "TorchIO": torchio}

Way = tuple[str, bool, bool]
"""A pipeline, whether it averages, and whether it packs."""


def ways(work: Work) -> dict[Way, Prepare]:
    """Preparations by what they are."""
    found: dict[Way, Prepare] = {}
    for name, make in PEERS.items():
        try:
            found |= {(name, *how): make(work, *how) for how in product((False, True), repeat=2)}
        except ImportError:
            sys.stdout.write(f"{name}: not installed, left out; --help says how to get it\n")
    return found


def check(ways: dict[Way, Prepare], grid: Volume) -> list[str]:
    """How far the peers' voxels are from medssl's, in HU, a line each; raises SystemExit for another grid."""
    inner = binary_erosion(np.ones(grid.shape, bool) if grid.valid is None else grid.valid, iterations=EDGE)
    lines = []
    for averaged in (False, True):
        expected = np.asarray(ways[OURS, averaged, False](0))
        for name in dict.fromkeys(way[0] for way in ways if way[0] != OURS):
            found = np.asarray(ways[name, averaged, False](0))
            if found.shape != expected.shape:
                raise SystemExit(f"{name}: a grid of {found.shape}, not {expected.shape}; it did other work")
            apart = 1000 * np.abs(found - expected)[:, inner]
            middle, most = np.percentile(apart, (50, 99))
            how = "averaged" if averaged else "not averaged"
            lines.append(f"{name}, {how}: {middle:.2f} HU from medssl (median), {most:.2f} (99th percentile)")
    return lines


def measure(ways: dict[Way, Prepare], rounds: int) -> dict[Way, np.ndarray]:
    """Milliseconds of CPU and on the clock, (rounds, 2), of every preparation."""
    rng = np.random.default_rng(1)
    times: dict[Way, list[tuple[float, float]]] = {way: [] for way in ways}
    there = list(ways)
    for number in range(rounds + 1):  # the first round warms the caches
        for n in rng.permutation(len(there)):
            cpu, clock = time.process_time(), time.perf_counter()
            ways[there[n]](number)
            if number:
                times[there[n]].append((1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - clock)))
    return {way: np.array(spent) for way, spent in times.items()}


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
    settings = Preparation(ct_spacing=new, ct_window=WINDOW)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source = folder / "scan.nii.gz"
        nib.save(nib.Nifti1Image(scan(shape, 0), np.diag([-old[0], -old[1], old[2], 1.0])), source)
        grid = put_on_grid(open_volume(source, modality="CT"), settings)
        made = ways(Work(source, folder, old, settings, grid))
        lines = check(made, grid)
        times = measure(made, given.rounds)
    lines.append(f"{shape} int16 of {old} mm to {new} mm, {given.rounds} rounds, ms per volume")
    lines.append(
        f"{'':<9}{'averaged':<10}{'written':<8}{'CPU':>7}{'clock':>7}{'CPU x medssl':>14}{'clock x medssl':>16}"
    )
    for averaged, packed in product((False, True), repeat=2):
        for name in dict.fromkeys(way[0] for way in times):
            spent = times[name, averaged, packed]
            cpu, clock = np.median(spent, axis=0)
            ratio = np.median(spent / times[OURS, averaged, packed], axis=0)
            how = f"{'yes' if averaged else 'no':<10}{'packed' if packed else '.npy':<8}"
            lines.append(f"{name:<9}{how}{cpu:>7.0f}{clock:>7.0f}{ratio[0]:>14.2f}{ratio[1]:>16.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
