"""What it costs to judge every voxel of a volume: medssl against MONAI's sliding_window_inference, in time and in memory.

Example: OMP_NUM_THREADS=1 python benchmarks/inference.py --rounds 5

Both judge the same volume of a store with the same network (a residual U-Net, untrained), the same windows that overlap by
a half and the same Gaussian weights, down to a label map of two structures; MONAI reads the volume whole and is given four
windows at a time, as is usual, or one. All ways take turns in every round, in random order, on one thread; CPU seconds,
median. "Network alone" is as many windows without reading or blending: the bound.

Memory is the most that a process of its own held, which judges a CT-like volume of 512x512x600 with a tiny network and
windows of 128^3 that overlap by a quarter, once in each way; beside it what the process held before. A map "on the source"
is drawn on a grid of 512x512x600 that lies across the prepared one, so that every voxel of it is interpolated. medssl's
maps are also written as NIfTI.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from crops import scan
from monai.inferers import sliding_window_inference

from medssl.answers import Ensemble, detection_maps, label_maps, place_of, save_map
from medssl.answers.windows import AT_ONCE
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.place import keep_memory
from medssl.recipe import Section
from medssl.store.shards import read_array, write_array
from medssl.trunks import build_trunk
from medssl.views import Crops

STRUCTURES = ["1", "2"]
WIDTHS = ["8", "16", "32", "64"]
LARGE, WIDE, SMALL = (512, 512, 600), (128, 128, 128), ["2"]
BOUND = 8.0
"""GiB that a volume of 512x512x600 may take."""

Way = Callable[[], np.ndarray]


def model(widths: list[str], size: tuple[int, ...], head: Section) -> Supervised:
    """An untrained network."""
    torch.manual_seed(0)
    trunk = build_trunk({"name": "resenc", "widths": widths}, size)
    return Supervised(trunk, build_head(head, trunk)).eval()


def stored(folder: Path, shape: tuple[int, ...]) -> tuple[Any, pd.Series]:
    """A store of the one volume in a folder, and its row."""
    store = SimpleNamespace(
        shape=lambda _: shape, affine=lambda _: np.eye(4),
        read=lambda _, __="image", start=None, stop=None: read_array(folder / "image", start, stop),
    )  # fmt: skip
    across = np.eye(4)[[1, 0, 2, 3]]
    across[:3, 3] = 0.4, 0.3, 0.2
    row = {
        "volume_id": "a", "prepared_shape": shape, "prepared_affine": np.eye(4).ravel(),
        "shape": (shape[1], shape[0], shape[2]), "affine": across.ravel(),
    }  # fmt: skip
    return store, pd.Series(row)


def ours(folder: Path, shape: tuple[int, ...], net: Supervised, size: tuple[int, ...], overlap: float) -> Way:
    """The label map on the prepared grid."""
    store, row = stored(folder, shape)
    models = Ensemble(models=(net,), crops=Crops(size=size), overlap=overlap)
    return lambda: label_maps(models, store, row, place_of(row, "prepared_")).prepared


def monai(folder: Path, net: Supervised, size: tuple[int, ...], overlap: float, at_once: int) -> Way:
    """The label map by MONAI."""

    def answer(x: torch.Tensor) -> torch.Tensor:
        return net.answer(x).softmax(1)  # what is blended has to be the same

    def way() -> np.ndarray:
        volume = torch.from_numpy(read_array(folder / "image").astype(np.float32))[None]
        found = sliding_window_inference(volume, size, at_once, answer, overlap, "gaussian")
        return cast(torch.Tensor, found).argmax(1)[0].to(torch.uint8).numpy()

    return way


def alone(net: Supervised, size: tuple[int, ...], count: int) -> Way:
    """The network's answers to so many windows, as many at a time as medssl takes."""

    def way() -> np.ndarray:
        many = max(1, AT_ONCE // int(np.prod(size)))
        for first in range(0, count, many):
            net.answer(torch.zeros(min(many, count - first), 1, *size))
        return np.empty(0)

    return way


def measure(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Median CPU seconds by way. Raises where two ways find other structures in more than one voxel of a thousand."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    rng, found = np.random.default_rng(0), dict[str, np.ndarray]()
    for _ in range(rounds):
        for name in rng.permutation(list(ways)):
            before = time.process_time()
            found[name] = ways[name]()
            spent[name].append(time.process_time() - before)
    maps = [one for one in found.values() if one.size]
    if any((one != maps[0]).mean() > 1e-3 for one in maps):
        raise SystemExit("the ways find other structures; the times mean nothing")
    return {name: float(np.median(times)) for name, times in spent.items()}


def large(folder: Path) -> dict[str, Callable[[], object]]:
    """Every way to judge the large volume."""

    def net(name: str) -> Supervised:
        head: Section = {"name": name} | ({"structures": STRUCTURES} if name == "segment" else {"by": "dynamic-fast"})
        return model(SMALL, WIDE, head)

    def found(name: str, prefix: str) -> object:
        store, row = stored(folder, LARGE)
        models = Ensemble(models=(net(name),), crops=Crops(size=WIDE), overlap=0.25)
        found = (label_maps if name == "segment" else detection_maps)(models, store, row, place_of(row, prefix))
        save_map(folder / f"{name}{prefix}.nii.gz", found.written, found.place.affine)
        return found

    return {
        "MONAI, label map": lambda: monai(folder, net("segment"), WIDE, 0.25, 4)(),
        "medssl, label map": lambda: found("segment", "prepared_"),
        "medssl, label map on the source": lambda: found("segment", ""),
        "medssl, candidates on the source": lambda: found("detect", ""),
    }


def held() -> float:
    """GiB that this process held at most. getrusage would tell the parent's, if that held more (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024**2


def judge(folder: Path, name: str) -> None:
    """Nothing; GiB held before and at most, and CPU seconds, of one way, are on standard output."""
    bare, before = held(), time.process_time()
    with torch.inference_mode():
        large(folder)[name]()
    sys.stdout.write(f"{bare} {held()} {time.process_time() - before}\n")


def main() -> None:
    """Nothing; the tables are on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="volumes of every way; 0: only memory (5)")
    parser.add_argument("--memory", action="store_true", help="judge the large volume as well")
    parser.add_argument("--judge", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as predictions do
    if given.judge:
        judge(Path(given.judge[0]), given.judge[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for shape, edge in (((80, 80, 64), 32), ((112, 112, 96), 64), ((144, 144, 120), 96)) if given.rounds else ():
            write_array(path / "image", (scan(shape, 0) / np.float32(1000)).astype(np.float16)[None])
            size = (edge,) * 3
            net = model(WIDTHS, size, {"name": "segment", "structures": STRUCTURES})
            count = int(np.prod([max(-(-2 * (n - edge) // edge), 0) + 1 for n in shape]))
            ways = {
                "medssl": ours(path, shape, net, size, 0.5), "MONAI, 4 at a time": monai(path, net, size, 0.5, 4),
                "MONAI, 1 at a time": monai(path, net, size, 0.5, 1), "network alone": alone(net, size, count),
            }  # fmt: skip
            with torch.inference_mode():
                cost = measure(ways, given.rounds)
            sys.stdout.write(f"| {shape}, {count} windows of {edge}^3 | CPU s | x medssl |\n{'|---' * 3}|\n")
            for name, spent in cost.items():
                sys.stdout.write(f"| {name} | {spent:.2f} | {spent / cost['medssl']:.2f} |\n")
            sys.stdout.write("\n")
            sys.stdout.flush()
        if not given.memory:
            return
        write_array(path / "image", (scan(LARGE, 0) / np.float32(1000)).astype(np.float16)[None])
        sys.stdout.write(f"| {LARGE}, windows of {WIDE} | GiB at most | of it bare | CPU s |\n{'|---' * 4}|\n")
        for name in large(path):
            told = subprocess.run(
                [sys.executable, __file__, "--judge", folder, name], capture_output=True, text=True, check=True
            )
            bare, most, spent = map(float, told.stdout.split())
            sys.stdout.write(f"| {name} | {most:.2f} | {bare:.2f} | {spent:.0f} |\n")
            sys.stdout.flush()
        sys.stdout.write(f"(medssl is to stay below {BOUND:.0f} GiB)\n")


if __name__ == "__main__":
    main()
