"""Augmented views per CPU-second: medssl against batchgeneratorsv2 with nnU-Net's way of loading, and MONAI.

Example: OMP_NUM_THREADS=1 python benchmarks/views.py --rounds 30

Every way makes one view of one channel with the same kinds of changes, each of them always, or with --often 0.2 as rarely
as nnU-Net and nnssl turn and zoom (intensity always): a random place, a turn of up
to 30 degrees about each axis, a zoom of 0.65 to 1.35, mirrors, gain, gamma, Gaussian noise. Each measures its noise in
a unit of its own, which costs the same. medssl reads the box that the
view needs from its store; nnU-Net's way reads an enlarged patch (64 to 102, 96 to 154) of a blosc2 file, opened for
every view; MONAI cuts the same enlarged patch from memory and reads nothing, so medssl is measured so, too, as it does by
default with volumes of up to 64 MiB. A peer is compared with the way of medssl that reads from where it does. Cubic is
what nnssl uses (batchgenerators, third order), linear is what medssl does. All take turns in every round, in random order,
on one thread, five views a turn, as a worker of a loader makes one after the other; CPU ms a view, median of the turns
where every change is always made, else mean: rare changes are most of the cost.
"MiB" is what a view takes at most, in a process of its own, beside what is there before it. "Read" is medssl's crop
without any change; "two views" are of one scan and share half of each side.

Peers are no dependencies: python -m venv peers; peers/bin/pip install -e . blosc2, then
peers/bin/pip install --no-deps batchgeneratorsv2 batchgenerators
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from crops import scan

from medssl.store.shards import read_array, write_array
from medssl.views import Crops, Intensity, Steps, Views, draw

Way = Callable[[], torch.Tensor]

ENLARGED = {64: 102, 96: 154}
"""What nnU-Net reads for a patch that is turned by 30 degrees."""
TURN, ZOOM, GAIN, GAMMA, NOISE = 30.0, 0.35, 0.2, 0.2, 0.05
BAR = 3.0
"""Times a peer's rate that ours must reach."""
KEPT = draw.CACHE_BYTES
"""Bytes of decoded volumes that medssl keeps unless it is told not to."""
STORE, MEMORY = "medssl, from the store", "medssl, from memory"
TURN_OF = 5
"""Views that a way makes when it is its turn."""


def ours(folder: Path, shape: tuple[int, int, int], edge: int, often: float = 1.0) -> dict[str, Way]:
    """A view with every change, from the store and from memory; two of one scan; and one that is only read."""
    store = SimpleNamespace(
        shape=lambda _: shape, affine=lambda _: np.eye(4),
        read=lambda _, __, start=None, stop=None: read_array(folder / "image", start, stop),
    )  # fmt: skip
    rows = pd.DataFrame({"volume_id": ["a"], "modality": "CT", "patient_pid": "p", "scanner": "s"})
    crops = Crops(size=(edge,) * 3, turn=TURN, zoom=ZOOM, flips=(0, 1, 2), p=often)
    change = Intensity(gain=GAIN, offset=0.0, gamma=GAMMA, noise=NOISE)
    two = replace(crops, overlap=0.5)
    one, both, kept = (
        Steps(store, rows, Views(crops=law, count=count, intensity=change), batch=1, seed=0)  # type: ignore[arg-type]
        for count, law in ((1, crops), (2, two), (1, crops))
    )
    rng, number = np.random.default_rng(0), iter(range(1 << 30))

    def drawn(steps: Steps, cache: int) -> torch.Tensor:
        draw.CACHE_BYTES = cache
        return steps[next(number)].x[:, 0, 0]

    def read() -> torch.Tensor:
        start = [int(rng.integers(0, n - edge + 1)) for n in shape]
        return torch.from_numpy(read_array(folder / "image", start, [a + edge for a in start])).float()

    return {
        STORE: lambda: drawn(one, 0), "medssl, two views": lambda: drawn(both, 0), "medssl, read": read,
        MEMORY: lambda: drawn(kept, KEPT),
    }  # fmt: skip


def batchgenerators(folder: Path, array: np.ndarray, edge: int, often: float = 1.0) -> dict[str, Way]:
    """nnU-Net's loading, then linear (batchgeneratorsv2) or cubic (batchgenerators) geometry; none if not installed."""
    try:
        import blosc2
        from batchgenerators.transforms.spatial_transforms import SpatialTransform as Cubic
        from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform as Gain
        from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform as Gamma
        from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform as Noise
        from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform as Mirror
        from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform as Linear
    except ImportError as missing:
        sys.stdout.write(f"batchgeneratorsv2: left out ({missing}); --help says how to get it\n")
        return {}
    blosc2.set_nthreads(1)
    path, wide, angle = str(folder / "image.b2nd"), ENLARGED[edge], np.deg2rad(TURN)
    blosc2.asarray(
        array[None], urlpath=path, mode="w", chunks=(1, 96, 96, 96), blocks=(1, 64, 32, 32),
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": 8, "nthreads": 1},
    )  # fmt: skip
    linear = Linear(
        (edge,) * 3, 0, False, p_rotation=often, rotation=(-angle, angle), p_scaling=often, scaling=(1 - ZOOM, 1 + ZOOM),
        p_synchronize_scaling_across_axes=1,
    )  # fmt: skip
    turn = (-angle, angle)
    cubic = Cubic(
        (edge,) * 3, None, do_elastic_deform=False, angle_x=turn, angle_y=turn, angle_z=turn,
        scale=(1 - ZOOM, 1 + ZOOM), border_mode_data="constant", order_data=3, random_crop=False,
        p_rot_per_sample=often, p_scale_per_sample=often,
    )  # fmt: skip
    after = [
        Mirror((0, 1, 2)), Noise((0, NOISE)), Gain((1 - GAIN, 1 + GAIN), True),
        Gamma((np.exp(-GAMMA), np.exp(GAMMA)), 0, True, 1, 0),
    ]  # fmt: skip
    rng = np.random.default_rng(0)

    def patch() -> np.ndarray:
        start = [int(rng.integers(0, max(n - wide, 0) + 1)) for n in array.shape]
        box = (slice(None), *(slice(a, a + wide) for a in start))
        return np.asarray(blosc2.open(path, mode="r", dparams={"nthreads": 1})[box], dtype=np.float32)

    def changed(x: torch.Tensor) -> torch.Tensor:
        for change in after:
            x = change(image=x)["image"]
        return x

    return {
        "batchgeneratorsv2, linear": lambda: changed(linear(image=torch.from_numpy(patch()))["image"]),
        "batchgenerators, cubic": lambda: changed(torch.from_numpy(cubic(data=patch()[None])["data"][0])),
    }


def monai(array: np.ndarray, edge: int, often: float = 1.0) -> dict[str, Way]:
    """MONAI's dictionary transforms on a volume in memory, without tracking of metadata."""
    from monai import transforms as m
    from monai.data import set_track_meta

    set_track_meta(False)
    wide, angle, key = min(ENLARGED[edge], *array.shape), float(np.deg2rad(TURN)), ["image"]
    volume = torch.from_numpy(array[None].astype(np.float32))
    chain = m.Compose([
        m.RandSpatialCropd(key, (wide,) * 3, random_size=False),
        m.RandAffined(
            key, prob=1 - (1 - often) ** 2, rotate_range=(angle,) * 3, scale_range=(ZOOM,) * 3,
            spatial_size=(edge,) * 3, mode="bilinear", padding_mode="zeros",
        ),
        *(m.RandFlipd(key, prob=0.5, spatial_axis=axis) for axis in range(3)),
        m.RandGaussianNoised(key, prob=1, std=NOISE),
        m.RandScaleIntensityd(key, prob=1, factors=GAIN),
        m.RandAdjustContrastd(key, prob=1, gamma=(float(np.exp(-GAMMA)), float(np.exp(GAMMA)))),
    ])  # fmt: skip
    return {"MONAI, linear, from memory": lambda: torch.as_tensor(chain({"image": volume})["image"])}


def measure(ways: dict[str, Way], edge: int, rounds: int, often: float) -> dict[str, float]:
    """CPU milliseconds of a view, by way: the median, or the mean where views do not cost alike.

    Raises when a view has not the size asked for.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    rng = np.random.default_rng(1)
    for number in range(rounds + 1):  # the first round warms the caches
        for name in rng.permutation(list(ways)):
            before = time.process_time()
            views = [view for _ in range(TURN_OF) for view in ways[name]()]
            spent = time.process_time() - before
            if {tuple(view.shape) for view in views} != {(edge, edge, edge)}:
                raise SystemExit(f"{name}: views of {[tuple(view.shape) for view in views]}, not of {edge}")
            if number:
                times[name].append(1e3 * spent / len(views))
    middle = np.median if often == 1 else np.mean
    return {name: float(middle(spent)) for name, spent in times.items()}


def peak(way: Way) -> float:
    """MiB that a way holds at most while it makes a view, beside what was there before (Linux)."""
    status, own = Path("/proc/self/status"), multiprocessing.get_context("fork").Queue()

    def held(name: str) -> float:
        return next(int(line.split()[1]) / 1024 for line in status.read_text().split("\n") if line.startswith(name))

    def child() -> None:
        way()  # what is compiled, or set up once
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, so that it counts when it is taken
        Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
        before = held("VmRSS")
        way()
        own.put(held("VmHWM") - before)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    found = own.get(timeout=60)
    process.join()
    return float(found)


def main() -> None:
    """Nothing; the tables are on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="turns of every way (30)")
    parser.add_argument("--often", type=float, default=1.0, help="share of views that are turned, and zoomed (1)")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give 1 or more")
    if not 0 <= given.often <= 1:
        parser.error(f"--often {given.often}: give a share from 0 to 1")
    torch.set_num_threads(1)
    array = (scan((192, 192, 160), 0) / np.float32(1000)).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        write_array(Path(folder) / "image", array[None])
        for edge in ENLARGED:
            whole = array.astype(np.float32)
            ways = ours(Path(folder), array.shape, edge, given.often)
            ways |= batchgenerators(Path(folder), whole, edge, given.often) | monai(whole, edge, given.often)
            costs = measure(ways, edge, given.rounds, given.often)
            sys.stdout.write(
                f"{edge}^3, {given.rounds} rounds\n{'way':<28}{'ms':>8}{'views/s':>10}{'x medssl':>10}{'MiB':>8}\n"
            )
            for name, spent in costs.items():
                ratio = spent / costs[MEMORY if name.endswith("from memory") else STORE]
                sys.stdout.write(f"{name:<28}{spent:>8.2f}{1e3 / spent:>10.1f}{ratio:>10.2f}{peak(ways[name]):>8.1f}\n")
            sys.stdout.write(f"(a peer is to take at least {BAR:.0f} times medssl's)\n\n")


if __name__ == "__main__":
    main()
