"""Random crops out of one CT volume on disk: the store's reader against nnU-Net's blosc2 layout, nibabel and numpy.

Example: python benchmarks/crops.py --rounds 60

The volume is CT-like int16: smooth anatomy, correlated noise of 22 HU, -2000 outside a round field of view. All readers
take turns in every round, in random order, so noise from other processes falls on all of them and what a reader finds
in the processor's caches is up to chance. Each opens its file anew for every crop. Times are CPU milliseconds of this
process (all its threads), the median over rounds; every crop is compared with the array it was cut from. medssl checks
a CRC32C of every chunk it uses; the others check nothing. With --hot only medssl and blosc2 take turns: their caches
stay warm.

blosc2 is no dependency of medssl: python -m venv peers; peers/bin/pip install -e . blosc2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import zarr
from scipy.ndimage import gaussian_filter

from medssl.store.shards import read_array, write_array

Box = tuple[slice, ...]
Crop = Callable[[Box], np.ndarray]

OURS, LAYOUT, PACKED = "medssl", "blosc2 nnU-Net lz4hc", "nibabel .nii.gz"
BLOSC2_BAR, NIBABEL_BAR = 1.2, 60.0
"""Times blosc2's that ours may take, and times ours that nibabel must take, for crops of 64 voxels."""


def scan(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A CT-like volume (I, J, K) of int16 in HU."""
    rng = np.random.default_rng(seed)
    anatomy = gaussian_filter(rng.normal(size=shape), 8) * 8000
    noise = gaussian_filter(rng.normal(size=shape), 0.7)
    noise *= 22 / noise.std()
    across, along = (np.linspace(-1, 1, n) for n in shape[:2])
    radius2 = across[:, None, None] ** 2 + along[None, :, None] ** 2
    body = np.where(radius2 < 0.7, np.clip(anatomy, -900, 1200), -1000) + noise
    return np.where(radius2 < 1, np.maximum(np.round(body), -1024), -2000).astype(np.int16)


def readers(folder: Path, array: np.ndarray) -> dict[str, tuple[Crop, Path]]:
    """Ways to cut a box (I, J, K) out of the volume on disk, and where its bytes are, by name."""
    shard, packed, plain = folder / "image", folder / "image.nii.gz", folder / "image.npy"
    write_array(shard, array[None])
    nib.save(nib.Nifti1Image(array, np.eye(4)), packed)
    np.save(plain, array)

    def ours(box: Box) -> np.ndarray:
        return read_array(shard, [s.start for s in box], [s.stop for s in box])[0]

    def zarr_python(box: Box) -> np.ndarray:
        return np.asarray(zarr.open_array(shard, mode="r")[0, *box])

    def nibabel(box: Box) -> np.ndarray:
        return np.asanyarray(nib.load(packed).dataobj)[box]

    def mapped(box: Box) -> np.ndarray:
        return np.array(np.load(plain, mmap_mode="r")[box])

    ways: dict[str, tuple[Crop, Path]] = {OURS: (ours, shard)}
    try:
        import blosc2
    except ImportError:
        sys.stdout.write("blosc2: not installed, left out; --help says how to get it\n")
    else:
        ways |= blosc2_readers(blosc2, folder, array)
    return ways | {
        "zarr-python": (zarr_python, shard),
        PACKED: (nibabel, packed),
        "np.load mmap (bound)": (mapped, plain),
    }


def blosc2_readers(blosc2: ModuleType, folder: Path, array: np.ndarray) -> dict[str, tuple[Crop, Path]]:
    """nnU-Net's layout (chunks of 96, blocks of 64x32x32, level 8) with the fast codec and with the one it writes."""
    blosc2.set_nthreads(1)

    def reader(codec: object, name: str) -> tuple[Crop, Path]:
        path = folder / f"{name}.b2nd"
        settings = {"codec": codec, "clevel": 8, "nthreads": 1}
        chunks, blocks = (
            tuple(min(a, n) for a, n in zip(e, array.shape, strict=True)) for e in ((96,) * 3, (64, 32, 32))
        )
        blosc2.asarray(array, chunks=chunks, blocks=blocks, urlpath=str(path), mode="w", cparams=settings)
        return lambda box: blosc2.open(str(path), mode="r", dparams={"nthreads": 1})[box], path

    return {LAYOUT: reader(blosc2.Codec.LZ4HC, "lz4hc"), "blosc2 nnU-Net zstd": reader(blosc2.Codec.ZSTD, "zstd")}


def measure(
    ways: dict[str, tuple[Crop, Path]], array: np.ndarray, size: tuple[int, ...], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds of every crop, by reader. Raises when a crop is wrong."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first round warms the caches
        starts = [int(rng.integers(0, n - edge + 1)) for n, edge in zip(array.shape, size, strict=True)]
        box = tuple(slice(a, a + edge) for a, edge in zip(starts, size, strict=True))
        for name in rng.permutation(list(ways)):
            way, _ = ways[name]
            before = time.process_time()
            crop = way(box)
            spent = time.process_time() - before
            if not np.array_equal(crop, array[box]):
                raise SystemExit(f"{name}: the crop at {starts} is not what was written")
            if number:
                times[name].append(1e3 * spent)
    return times


def table(times: dict[str, list[float]], ways: dict[str, tuple[Crop, Path]], title: str) -> list[str]:
    """Lines of one measurement."""
    base = float(np.median(times[OURS]))
    lines = [title, f"{'reader':<22}{'median':>8}{'p10':>8}{'p90':>8}{'x medssl':>10}{'MB':>8}"]
    for name, spent in times.items():
        p10, median, p90 = np.percentile(spent, (10, 50, 90))
        path = ways[name][1]
        size = sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()) / 1e6
        lines.append(f"{name:<22}{median:>8.2f}{p10:>8.2f}{p90:>8.2f}{median / base:>10.2f}{size:>8.2f}")
    return lines


def main() -> None:
    """Nothing; the tables are on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 128), help="voxels (256 256 128)")
    parser.add_argument("--crop", type=int, nargs=3, default=(64, 64, 64), help="voxels of a crop (64 64 64)")
    parser.add_argument("--super", type=int, nargs=3, default=(128, 128, 96), help="of a super-crop (128 128 96)")
    parser.add_argument("--rounds", type=int, default=60, help="crops for every reader (60)")
    parser.add_argument("--hot", action="store_true", help="only medssl and blosc2")
    given = parser.parse_args()
    for name, size in (("--crop", given.crop), ("--super", given.super)):
        if any(not 0 < edge <= n for edge, n in zip(size, given.shape, strict=True)):
            parser.error(f"{name} {size}: must fit into {given.shape}")
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give 1 or more")
    array = scan(tuple(given.shape), 0)
    with tempfile.TemporaryDirectory() as folder:
        ways = readers(Path(folder), array)
        if given.hot:
            ways = {name: way for name, way in ways.items() if name == OURS or name.startswith("blosc2")}
        for size in (tuple(given.crop), tuple(given.super)):
            times = measure(ways, array, size, given.rounds)
            title = f"{size} of {tuple(given.shape)} int16, {given.rounds} rounds, CPU ms per crop"
            sys.stdout.write("\n".join([*table(times, ways, title), ""]) + "\n")
            medians = {name: float(np.median(spent)) for name, spent in times.items()}
            if LAYOUT in medians:
                ratio = medians[OURS] / medians[LAYOUT]
                sys.stdout.write(f"medssl takes {ratio:.2f} of {LAYOUT} (at most {BLOSC2_BAR} for 64^3)\n")
            if PACKED in medians:
                ratio = medians[PACKED] / medians[OURS]
                sys.stdout.write(f"{PACKED} takes {ratio:.0f} times medssl's (at least {NIBABEL_BAR:.0f} for 64^3)\n\n")


if __name__ == "__main__":
    main()
