"""Training in two processes: what comes out is what one process makes of the same batches.

This file is also what the two processes run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medssl.adapt import Supervised
from medssl.heads import build_head
from medssl.methods import TERMS, build_method
from medssl.place import join
from medssl.processes import share, together
from medssl.trunks import build_trunk
from medssl.views import Batch
from medssl.views.samplers import share_of

SIZE, VIEWS, SCANS, STEPS = (16, 16), 3, 4, 3

TOLERANCE = 2e-5
"""Of the largest number of a tensor. Sums over two shares, each rounded to 24 bits, differ from the sum over all in the
last bits; three steps of plain descent let that grow."""

TAUGHT = {"teacher_half_life": "0.1"}
PAIRS = {
    "positive": [["same scan"], ["same site", "not same patient"], ["knn 1"]],
    "ignore": [["same patient"], ["near_mm 1.5", "not same scan"]],
}
CASES = {
    "contrast": {"contrast": {}},
    "contrast of all scanners": {"contrast": {"same_scanner": "false"}},
    "contrast by pairs": {"contrast": {"pairs": PAIRS}},
    "contrast by links": {"contrast": {"pairs": {"positive": PAIRS["positive"], "transitive": "true"}}},
    "contrast with a teacher": {"contrast": {"teacher": "true"}, **TAUGHT},
    "contrast with a queue": {"contrast": {"teacher": "true", "queue": "7"}, **TAUGHT},
    "contrast with harder negatives": {
        "contrast": {"teacher": "true", "queue": "6", "hardest": "4", "mixed": "3", "mixed_with_query": "2"},
        **TAUGHT,
    },
    "local": {"local": {"points": "16", "apart_mm": "3"}},
    "position": {"position": {"near": "0.2", "apart": "0.3", "along": "0"}},
    "position of one scan": {"position": {"near": "0.4", "apart": "0.5", "across": "false"}},
    "order": {"order": {"apart": "0.1"}},
    "vicreg": {"vicreg": {}},
    "byol": {"byol": {}, **TAUGHT},
    "dino": {"dino": {"prototypes": "16"}, **TAUGHT},
    "dino with koleo": {"dino": {"prototypes": "16", "koleo": "0.5"}, **TAUGHT},
    "ibot": {"ibot": {"prototypes": "16"}, **TAUGHT},
    "swav": {"swav": {"prototypes": "8", "queue": "6"}},
    "swav with frozen prototypes": {"swav": {"prototypes": "8", "queue": "0", "frozen": "2"}},
    "rebuild": {"rebuild": {}},
    "rebuild of tissue": {"rebuild": {"whiten": "true"}, "mask": {"kind": "block", "tissue": "true", "ratio": "0.4"}},
    "rebuild under planes": {"rebuild": {}, "mask": {"kind": "plane", "extent": "1", "axis": "1"}},
    "rebuild from another scan": {"rebuild": {}, "mask": {"fill": "another", "kind": "cluster"}},
    "rotation": {"rotation": {}},
    "learned weights": {"rebuild": {}, "contrast": {"masked": "true"}, "vicreg": {}, "weighing": "learned"},
}
TRUNKS = {
    "convolutions": {"name": "resenc", "widths": ["4", "8"]},
    "tokens": {"name": "vit", "patch": ["4", "4"], "width": "16", "depth": "2", "heads": "2"},
}
HEADS = {"classify": {"name": "classify", "label": "big"}, "segment": {"name": "segment", "structures": ["a", "b"]}}
ALL = [f"{case}, {trunk}" for trunk in TRUNKS for case in CASES] + [f"head {name}" for name in HEADS]


def build(name):
    torch.manual_seed(1)
    if name.startswith("head "):
        trunk = build_trunk(TRUNKS["convolutions"], SIZE)
        return Supervised(trunk, build_head(HEADS[name.removeprefix("head ")], trunk))
    case, _, trunk = name.partition(", ")
    return build_method(CASES[case], build_trunk(TRUNKS[trunk], SIZE))


def batch_of(name, step, rank=0, world=1):
    """A share of a batch of four scans of three patients. Each process sees something that the other does not: the patient
    who is in both, a scan whose views do not meet, one whose views are too near to be put in order.
    """
    numbers = torch.Generator().manual_seed(step)
    x = torch.randn(VIEWS, SCANS, 1, *SIZE, generator=numbers)
    x[:, 1, :, :8] = 0.25  # air
    to_mm = torch.eye(4, dtype=torch.float64).repeat(VIEWS, SCANS, 1, 1)
    to_mm[..., :2, 3] = 3 * torch.rand(VIEWS, SCANS, 2, generator=numbers)
    to_mm[1, 0, 2, 3] = 50.0
    where = torch.rand(VIEWS, SCANS, 3, generator=numbers, dtype=torch.float64)
    where[:, 3] = 0.5
    whole = Batch(
        x=x, to_mm=to_mm, patient=torch.tensor([0, 1, 1, 2]), scanner=torch.tensor([0, 0, 0, step % 2]),
        target=torch.tensor([0.0, 1.0, 1.0, 0.0]), where=where, small=x[:2, ..., 4:12, 4:12],
        facts={"site": torch.tensor([-1, 0, 1, 0])},
    )  # fmt: skip
    if name == "head segment":
        whole = whole._replace(target=(x[0, :, 0] > 0).long() + (x[0, :, 0] > 1).long())
    mine = torch.tensor(share_of(SCANS, rank, world))
    of_scans = {key: getattr(whole, key)[mine] for key in ("patient", "scanner", "target")}
    of_views = {key: getattr(whole, key)[:, mine] for key in ("x", "to_mm", "where", "small")}
    return whole._replace(**of_scans, **of_views, facts={key: value[mine] for key, value in whole.facts.items()})


def trained(name):
    """Losses and gradients of each step and, after the last, weights and buffers."""
    fabric, model = join("32-true"), build(name)
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.02))
    model.train()
    found = {}
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        with together():
            losses = wrapped(batch_of(name, step, *share()))
            fabric.backward(sum(losses.values()))
        found |= {f"loss {step} {term}": loss.detach() for term, loss in losses.items()}
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"gradient {step} {key}"] = parameter.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(10)
    return found | {f"state {key}": value.clone() for key, value in model.state_dict().items()}


def torchrun(*command, **options):
    """Two processes of `command` and their end. `--` because torchrun would read medssl's --run as its own --run-path."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*start, *map(str, command)], env=environment, text=True, **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found, by case."""
    folder = tmp_path_factory.mktemp("two")
    with torchrun("--", __file__, folder, stderr=subprocess.PIPE) as pair:
        _, errors = pair.communicate(timeout=300)
    assert pair.returncode == 0, errors[-3000:]
    return [{name: load_file(folder / f"{number}-{rank}") for number, name in enumerate(ALL)} for rank in (0, 1)]


def test_every_term_and_head_is_compared():
    assert {term for section in CASES.values() for term in section if term in TERMS} == set(TERMS)


@pytest.mark.parametrize("name", ALL)
def test_two_processes_find_what_one_finds(two, name):
    one, (first, second) = trained(name), [found[name] for found in two]
    assert one.keys() == first.keys() == second.keys()
    for key, whole in one.items():
        if key.startswith("loss"):  # of a process; their mean is the loss
            mean = (first[key] + second[key]) / 2
            assert torch.allclose(whole, mean, rtol=TOLERANCE, atol=1e-6), (key, whole, mean)
            continue
        assert torch.equal(first[key], second[key]), key  # else processes would drift apart for ever
        if whole.numel():
            most = whole.abs().max().item()
            assert torch.allclose(whole, first[key], rtol=0, atol=TOLERANCE * most + 1e-6), (
                key, (whole - first[key]).abs().max(), most
            )  # fmt: skip


if __name__ == "__main__":
    for number, name in enumerate(ALL):
        save_file(trained(name), Path(sys.argv[1]) / f"{number}-{share()[0]}")
