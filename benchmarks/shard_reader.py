"""Random crops out of one volume: the store's own reader against zarr-python on the same files, and nibabel on .nii.gz.

Example: python benchmarks/shard_reader.py --shape 256 256 128 --rounds 40

The volume is CT-like: smooth anatomy, correlated noise, air around it. All readers take turns in every round, so noise
from other processes falls on all of them, and each opens its file anew for every crop. Times are CPU milliseconds of
this process (all its threads), the median over rounds; every crop is compared with the array it was cut from.
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
import zarr
from scipy.ndimage import gaussian_filter

from medssl.store.shards import read_array, shard_path, write_array

Crop = Callable[[tuple[slice, ...]], np.ndarray]


def scan(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A CT-like volume (1, I, J, K), float16, as the store holds it."""
    rng = np.random.default_rng(seed)
    anatomy = gaussian_filter(rng.normal(size=shape), 8) * 8
    noise = gaussian_filter(rng.normal(0, 0.022, shape), 0.7)
    centred = [np.linspace(-1, 1, n).reshape([-1 if a == b else 1 for b in range(3)]) for a, n in enumerate(shape)]
    body = centred[0] ** 2 + centred[1] ** 2 < 0.9
    return np.where(body, np.clip(anatomy + noise, -1, 1), -1)[None].astype(np.float16)


def readers(folder: Path, array: np.ndarray) -> dict[str, Crop]:
    """Ways to cut a box (I, J, K) out of the volume on disk, by name."""
    shard, packed = folder / "image", folder / "image.nii.gz"
    write_array(shard, array)
    nib.save(nib.Nifti1Image(np.round(array[0].astype(np.float32) * 1000).astype(np.int16), np.eye(4)), packed)

    def ours(box: tuple[slice, ...]) -> np.ndarray:
        return read_array(shard, [s.start for s in box], [s.stop for s in box])[0]

    def zarr_python(box: tuple[slice, ...]) -> np.ndarray:
        return zarr.open_array(shard, mode="r")[0, *box]

    def nibabel(box: tuple[slice, ...]) -> np.ndarray:
        return np.asanyarray(nib.load(packed).dataobj[box])

    return {"medssl": ours, "zarr-python": zarr_python, "nibabel .nii.gz": nibabel}


def measure(ways: dict[str, Crop], array: np.ndarray, edge: int, rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of every crop, by reader. Raises when a crop is wrong."""
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first round warms the caches
        starts = [int(rng.integers(0, n - edge + 1)) for n in array.shape[1:]]
        box = tuple(slice(a, a + edge) for a in starts)
        for name, way in ways.items():
            before = time.process_time()
            crop = way(box)
            spent = time.process_time() - before
            wanted = array[0, *box].astype(np.float32) * (1000 if crop.dtype == np.int16 else 1)
            if np.abs(crop - wanted).max() > (0.5 if crop.dtype == np.int16 else 0):
                raise SystemExit(f"{name}: the crop at {starts} is not what was written")
            if number:
                times[name].append(1e3 * spent)
    return times


def main() -> None:
    """Nothing; the table is on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 128, 96), help="voxels (128 128 96)")
    parser.add_argument("--edge", type=int, default=64, help="edge of a crop in voxels (64)")
    parser.add_argument("--rounds", type=int, default=60, help="crops for every reader (60)")
    given = parser.parse_args()
    if not 0 < given.edge <= min(given.shape) or given.rounds < 1:
        parser.error(f"--edge {given.edge}: a crop must fit into {tuple(given.shape)}, and --rounds be 1 or more")
    array = scan(tuple(given.shape), 0)
    with tempfile.TemporaryDirectory() as folder:
        times = measure(readers(Path(folder), array), array, given.edge, given.rounds)
        sizes = [path.stat().st_size for path in (shard_path(Path(folder) / "image"), Path(folder) / "image.nii.gz")]
    medians = {name: float(np.median(spent)) for name, spent in times.items()}
    lines = [f"{given.edge}^3 crops of {'x'.join(map(str, given.shape))}, {given.rounds} rounds, CPU ms per crop"]
    lines += [f"{'reader':<18}{'median':>8}{'p10':>8}{'p90':>8}{'x medssl':>10}{'MB':>8}"]
    for (name, spent), size in zip(times.items(), (sizes[0], *sizes), strict=True):
        p10, p90 = np.percentile(spent, (10, 90))
        ratio = medians[name] / medians["medssl"]
        lines.append(f"{name:<18}{medians[name]:>8.2f}{p10:>8.2f}{p90:>8.2f}{ratio:>10.1f}{size / 1e6:>8.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
