"""What a training step costs: a transformer that drops tokens, a sparse CNN beside the dense one, and how much memory.

Example: OMP_NUM_THREADS=1 python benchmarks/trunks.py --rounds 5 --plot sparse.svg

A step is forward, backward and AdamW's change of the weights on two random views of 64^3, by one thread; all ways of a
table take turns in every round, in random order; CPU seconds, median. "Trunk" is the encoder alone, its loss the mean
square of all it gives; "MAE" and "SparK" are the whole method with its decoder. The largest memory is that of a process of
its own that takes two steps of one way, and what such a process holds before it builds anything stands beside it.

ViT      (64, 64, 64) in patches of 8^3, width 384, depth 8: all 512 tokens, or 75 % dropped
CNN      widths 16 to 128, each level halves the grid: nothing hidden, or shares of 16^3 cells hidden, dense and sparse
alike    trunks of about 14 M weights: the ViT, a CNN whose first level has every voxel, a CSWin whose first has cells of 4^3
         (the depths 1, 2, 21, 1 of the paper's Tiny at three quarters of its widths), by slabs and by bars; and of 2^3
large    the encoder of nnU-Net's ResEnc-L, as in nnssl's MAE at the same 64^3: widths, depths and stem are its own
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from medssl.methods import build_method
from medssl.place import keep_memory
from medssl.recipe import Section
from medssl.trunks import Trunk, build_trunk
from medssl.views import Batch

SIZE, DROP = (64, 64, 64), 0.75
BATCH = 2
"""With one view and one thread torch takes its slow convolution."""
RATIOS = (0.0, 0.25, 0.5, 0.6, 0.75, 0.9)
VIT = {"name": "vit", "patch": ["8", "8", "8"], "width": "384", "depth": "8", "heads": "6"}
CNN = {"name": "resenc", "widths": ["16", "32", "64", "96", "128"]}
ALIKE = {"name": "resenc", "widths": ["32", "64", "128", "256", "256"]}
CSWIN = {"name": "cswin", "widths": ["48", "96", "192", "384"], "depths": ["1", "2", "21", "1"]}
FINE = {"strides": [["2"] * 3] * 4}
LARGE = {
    "name": "resenc",
    "widths": ["32", "64", "128", "256", "320", "320"],
    "depths": ["1", "3", "4", "6", "6", "6"],
    "stem": "true",
}

Step = Callable[[], object]


def hidden(trunk: Trunk, ratio: float) -> torch.Tensor:
    """A mask (BATCH, *grid) with that share of its cells hidden."""
    grid = [n // cell for n, cell in zip(SIZE, trunk.cell, strict=True)]
    mask = torch.zeros(int(np.prod(grid)), dtype=torch.bool)
    mask[torch.randperm(len(mask))[: round(ratio * len(mask))]] = True
    return mask.view(1, *grid).expand(BATCH, *grid)


def trained(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    """One step of training on what `loss` gives."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def trunk_step(section: Section, ratio: float | None) -> tuple[nn.Module, Step]:
    """The encoder alone; no mask at all where `ratio` is None."""
    torch.manual_seed(0)
    trunk = build_trunk(section, SIZE)
    x, mask = torch.randn(BATCH, 1, *SIZE), None if ratio is None else hidden(trunk, ratio)

    def loss() -> torch.Tensor:
        seen = trunk(x, mask)
        return torch.stack([level.square().mean() for level in (*seen.pyramid, seen.pooled)]).sum()

    return (module := cast(nn.Module, trunk)), trained(module, loss)


def method_step(section: Section, ratio: float) -> tuple[nn.Module, Step]:
    """Masked rebuilding: SparK where the trunk is sparse, else the same net that sees a learned value."""
    torch.manual_seed(0)
    method = build_method({"mask": {"ratio": str(ratio)}, "rebuild": {}}, build_trunk(section, SIZE))
    rows = torch.arange(BATCH)
    batch = Batch(torch.randn(1, BATCH, 1, *SIZE), torch.eye(4).double().expand(1, BATCH, 4, 4), rows, rows, rows)
    return method, trained(method, lambda: sum(method(batch).values(), torch.zeros(())))


def ways() -> dict[str, dict[str, Callable[[], tuple[nn.Module, Step]]]]:
    """Every way by table and name."""
    sparse = CNN | {"hide": "sparse"}
    return {
        "ViT trunk": {
            "all tokens": lambda: trunk_step(VIT, None),
            "75 % dropped": lambda: trunk_step(VIT, DROP),
        },
        "CNN trunk": {
            "dense, nothing hidden": lambda: trunk_step(CNN, None),
            "dense, 60 % hidden": lambda: trunk_step(CNN, 0.6),
            **{f"sparse, {ratio:.0%} hidden": lambda r=ratio: trunk_step(sparse, r) for ratio in RATIOS},
        },
        "trunks alike": {
            "ViT, all tokens": lambda: trunk_step(VIT, None),
            "ViT, 75 % dropped": lambda: trunk_step(VIT, DROP),
            "CNN": lambda: trunk_step(ALIKE, None),
            "CSWin, slabs": lambda: trunk_step(CSWIN, None),
            "CSWin, bars": lambda: trunk_step(CSWIN | {"shape": "bar"}, None),
            "CSWin, slabs, 2^3": lambda: trunk_step(CSWIN | FINE, None),
            "CSWin, bars, 2^3": lambda: trunk_step(CSWIN | FINE | {"shape": "bar"}, None),
        },
        "whole method, CNN": {
            "MAE, 60 % hidden": lambda: method_step(CNN, 0.6),
            "SparK, 60 % hidden": lambda: method_step(sparse, 0.6),
        },
        "whole method, large CNN": {
            "MAE, 75 % hidden": lambda: method_step(LARGE, 0.75),
            "SparK, 75 % hidden": lambda: method_step(LARGE | {"hide": "sparse"}, 0.75),
        },
    }


def measure(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median CPU seconds of a step, by way."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):  # the first round warms up
        for name in rng.permutation(list(steps)):
            before = time.process_time()
            steps[name]()
            if number:
                spent[name].append(time.process_time() - before)
    return {name: float(np.median(times)) for name, times in spent.items()}


def peak(table: str, name: str) -> tuple[float, float]:
    """MiB that a process of its own held at most, and before it built anything."""
    told = subprocess.run(
        [sys.executable, __file__, "--alone", table, name], capture_output=True, text=True, check=True
    )
    most, bare = map(float, told.stdout.split())
    return most, bare


def held() -> float:
    """MiB that this process held at most. getrusage would tell the parent's, if that held more (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def alone(table: str, name: str) -> None:
    """Nothing; the two numbers of `peak` are on standard output."""
    bare = held()
    _, step = ways()[table][name]()
    for _ in range(2):
        step()
    sys.stdout.write(f"{held()} {bare}\n")


def draw(cost: dict[str, float], path: Path) -> None:
    """Nothing; the sparse step over the dense one against the hidden share is at `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2))
    dense = cost["dense, nothing hidden"]
    axes.plot(RATIOS, [cost[f"sparse, {ratio:.0%} hidden"] / dense for ratio in RATIOS], "-o", label="sparse")
    axes.axhline(1, linestyle="--", color="grey", label="dense, nothing hidden")
    axes.set(xlabel="share of cells hidden", ylabel="cost of a step", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    """Nothing; the tables are on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="steps of every way (5)")
    parser.add_argument("--only", action="append", choices=list(ways()), help="a table; may be repeated")
    parser.add_argument("--plot", type=Path, help="where to draw the sparse step's cost")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()  # as every training does
    if told.alone:
        alone(*told.alone)
        return
    if told.rounds < 1:
        parser.error(f"--rounds {told.rounds}: give 1 or more")
    for table, entries in ways().items():
        if told.only and table not in told.only:
            continue
        built = {name: build() for name, build in entries.items()}
        cost = measure({name: step for name, (_, step) in built.items()}, told.rounds)
        first = next(iter(cost.values()))
        sys.stdout.write(f"| {table} | M weights | CPU s | x first | peak MiB | of it bare |\n{'|---' * 6}|\n")
        for name, spent in cost.items():
            weights = sum(p.numel() for p in built[name][0].parameters()) / 1e6
            most, bare = peak(table, name)
            sys.stdout.write(
                f"| {name} | {weights:.1f} | {spent:.3f} | {spent / first:.2f} | {most:.0f} | {bare:.0f} |\n"
            )
        sys.stdout.write("\n")
        sys.stdout.flush()
        if table == "CNN trunk" and told.plot:
            draw(cost, told.plot)


if __name__ == "__main__":
    main()
