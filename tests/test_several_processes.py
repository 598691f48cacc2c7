"""Training in two processes: what comes out is what one process makes of the same batches.

This file is also what the two processes run.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medssl import checkpoint
from medssl.adapt import finetune
from medssl.errors import UserError
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.methods import TERMS, build_method
from medssl.methods.rebuild import Rebuild
from medssl.place import join
from medssl.processes import (
    agreed,
    anyone,
    failing_together,
    fetched,
    gathered,
    mean,
    own,
    rows_in_all,
    share,
    together,
)
from medssl.recipe import read_recipe
from medssl.runs import read_log
from medssl.sharding import spread, whole
from medssl.train import pretrain
from medssl.trunks import build_trunk
from medssl.views import Batch
from medssl.views.samplers import share_of

SIZE, VIEWS, SCANS, STEPS = (16, 16), 3, 4, 3

TOLERANCE = 5e-5
"""Of the largest number of a weight, and of the largest slope of a step: there are slopes of nought that are left when large
ones cancel. Sums over two shares, each rounded to 24 bits, differ from the sum over all in the last bits, and three steps
of plain descent let that grow; measured: 6e-6 at most."""

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
    "local across": {"local": {"points": "16", "apart_mm": "3", "across": "true"}},
    "regions": {"regions": {"grid": ["2"]}},
    "regions across": {"regions": {"grid": ["2"], "across": "true"}},
    "position": {"position": {"near": "0.2", "apart": "0.3", "along": "0"}},
    "position of one scan": {"position": {"near": "0.4", "apart": "0.5", "across": "false"}},
    "order": {"order": {"apart": "0.1"}},
    "order of visits": {"order": {"by": "visit"}},
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
    "which": {"which": {}},
    "learned weights": {"rebuild": {}, "contrast": {"masked": "true"}, "vicreg": {}, "weighing": "learned"},
}
TRUNKS = {
    "convolutions": {"name": "resenc", "widths": ["4", "8"]},
    "sparse convolutions": {"name": "resenc", "widths": ["4", "8"], "stem": "true", "hide": "sparse"},
    "tokens": {"name": "vit", "patch": ["4", "4"], "width": "16", "depth": "2", "heads": "2", "hide": "token"},
}
HEADS = {
    "classify": {"name": "classify", "label": "big"},
    "segment": {"name": "segment", "structures": ["a", "b"]},
    "findings": {"name": "findings", "labels": ["a", "b"]},
}
ALL = [f"{case}, {trunk}" for trunk in ("convolutions", "tokens") for case in CASES]
ALL += ["rebuild, sparse convolutions", *(f"head {name}" for name in HEADS)]


def build(name):
    """An untrained model, without kinks: a voxel that its last bit puts on the other side of one changes a whole slope."""
    model = kinked(name)
    for part in model.modules():
        for called, child in part.named_children():
            if isinstance(child, torch.nn.LeakyReLU):
                setattr(part, called, torch.nn.GELU())
    return model


def kinked(name):
    torch.manual_seed(1)
    if name.startswith("head "):
        # With labels a scan has one view: what is dropped is drawn as in one process.
        dropping = {**TRUNKS["tokens"], "drop_path": "0.5"}
        trunk = build_trunk(dropping if name == "head findings" else TRUNKS["convolutions"], SIZE)
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
    to_share = to_mm.clone()
    to_share[..., :2, :] /= torch.tensor([20.0, 22, 20, 24])[:, None, None]
    where = torch.rand(VIEWS, SCANS, 3, generator=numbers, dtype=torch.float64)
    where[:, 3] = 0.5
    days = torch.tensor([[0, 365, math.nan, 0], [730, 0, 365, 0], [0, 0, 0, 0]], dtype=torch.float64)
    whole = Batch(
        x=x, to_mm=to_mm, patient=torch.tensor([0, 1, 1, 2]), scanner=torch.tensor([0, 0, 0, step % 2]),
        target=torch.tensor([0.0, 1.0, 1.0, 0.0]), where=where, small=x[:2, ..., 4:12, 4:12],
        to_share=to_share, facts={"site": torch.tensor([-1, 0, 1, 0])}, days=days,
    )  # fmt: skip
    if name == "head segment":
        whole = whole._replace(target=(x[0, :, 0] > 0).long() + (x[0, :, 0] > 1).long())
    if name == "head findings":  # the processes know a different number of labels
        unknown = float("nan")
        target = torch.tensor([[0, unknown], [1.0, 1.0], [unknown, 0], [1.0, unknown]])
        whole = whole._replace(target=target[torch.randperm(SCANS, generator=numbers)])
    mine = torch.tensor(share_of(SCANS, rank, world))
    of_scans = {key: getattr(whole, key)[mine] for key in ("patient", "scanner", "target")}
    of_views = {key: getattr(whole, key)[:, mine] for key in ("x", "to_mm", "to_share", "where", "small", "days")}
    return whole._replace(**of_scans, **of_views, facts={key: value[mine] for key, value in whole.facts.items()})


def trained(name, strategy="ddp"):
    """Losses and gradients of each step and, after the last, weights and buffers."""
    fabric, model = join("32-true", strategy), build(name)
    wrapped = fabric.setup_module(model)
    optimizer = fabric.setup_optimizers(torch.optim.SGD(model.parameters(), lr=0.02))
    model.train()
    found = {}
    if strategy == "fsdp" and share()[1] > 1:
        held = [(parameter.to_local().numel(), parameter.numel()) for parameter in model.parameters()]
        assert sum(mine for mine, _ in held) < 0.7 * sum(all_ for _, all_ in held)  # what is of one row has no halves
    for step in range(STEPS):
        torch.manual_seed(100 + step)
        with together():
            losses = wrapped(batch_of(name, step, *share()))
            fabric.backward(sum(losses.values()))
        found |= {f"loss {step} {term}": loss.detach() for term, loss in losses.items()}
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"gradient {step} {key}"] = whole(parameter.grad).clone()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(10)
    return found | {f"state {key}": whole(value).clone() for key, value in model.state_dict().items()}


def torchrun(*command, processes=2, **options):
    """So many processes of `command`, and their end. `--` because torchrun would read medssl's --run as its --run-path."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*start, *map(str, command)], env=environment, text=True, **options)


CHANGES = [
    "views.count=3", "method.teacher_half_life=0.2", "method.weighing=fixed", "method.vicreg={weight: 0.1}",
    "method.contrast={teacher: true, queue: 10, weight: 0.3}", "method.ibot={prototypes: 16}", "pretrain.accumulate=2",
    "method.swav={prototypes: 8, queue: 12}", "method.local={points: 16}", "pretrain.batch=4", "pretrain.steps=6",
    "pretrain.save_every=4", "probe={every: 4, volumes: 8, few: 2}",
]  # fmt: skip
"""A training with much that is remembered from step to step, and with all that only the first process does."""


PARTS = [*CHANGES, "pretrain.strategy=fsdp"]
HALF = [*CHANGES, "pretrain.precision=bf16-mixed", "pretrain.steps=2"]


def fails(when, who, how):
    """In process `who`, what `how` does happens as the rebuild's loss of batch number `when` is made."""
    calls, forward = [], Rebuild.forward

    def broken(self, bank):
        calls.append(1)
        loss = forward(self, bank)
        return how(loss) if len(calls) == when and share()[0] == who else loss

    Rebuild.forward = broken
    return forward


def stopped(loss):
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def broken_disk(*_):
    raise OSError("no space left on device")


def trainings(balls, folder):
    """What becomes of several trainings, by name: "" or the error. Both processes come to the end of each."""
    recipe, save, ends = read_recipe(balls / "recipe.yaml", CHANGES), checkpoint.save, {}

    def run(name, train=pretrain, recipe=recipe):
        try:
            train(recipe, balls / "store", folder / name)
        except (Exception, KeyboardInterrupt) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    ends["half"] = run("half", recipe=read_recipe(balls / "recipe.yaml", HALF))
    for straight, name, changes in ("whole", "stopped", CHANGES), ("parts", "stopped in parts", PARTS):
        of_this = read_recipe(balls / "recipe.yaml", changes)
        ends[straight] = run(straight, recipe=of_this)
        forward = fails(2 * 3, 1, stopped)
        ends[f"{name}, asked"] = run(name, recipe=of_this)
        ends[f"{name}, after"] = checkpoint.steps_done(folder / name / checkpoint.NAME)
        Rebuild.forward = forward
        if share()[0] == 0:
            shutil.copytree(folder / name, folder / f"left from {name}")
        ends[name] = run(name, recipe=of_this)
    fails(2 * 5, 1, lambda loss: loss * math.nan)
    ends["not finite"] = run("infinite")
    Rebuild.forward = forward
    if share()[0] == 0:
        checkpoint.save = broken_disk
    ends["full disk"] = run("full")
    checkpoint.save = save
    restore = checkpoint.restore
    if share()[0] == 1:  # as if its disk were another
        checkpoint.restore = lambda *_: 0
    ends["two disks"] = run("infinite")
    checkpoint.restore = restore
    ends["odd"] = run("odd", recipe=read_recipe(balls / "recipe.yaml", ["pretrain.batch=3"]))
    ends["classifier"] = run("classifier", finetune, read_recipe(balls / "recipe.yaml", ["finetune.batch=4"]))
    return ends


def ran(*arguments):
    """Nothing; two processes have run this file to its end."""
    with torchrun("--", __file__, *arguments, stderr=subprocess.PIPE) as pair:
        _, errors = pair.communicate(timeout=400)
    assert pair.returncode == 0, errors[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Where two processes left what they found in each case."""
    folder = tmp_path_factory.mktemp("two")
    ran(folder, "ddp")
    return folder


@pytest.fixture(scope="module")
def found_in_parts(tmp_path_factory):
    """Where two processes, each with a part of each weight, left what they found in each case."""
    folder = tmp_path_factory.mktemp("parts")
    ran(folder, "fsdp")
    return folder


@pytest.fixture(scope="module")
def folder(balls, tmp_path_factory):
    """Where the trainings of two processes are."""
    folder = tmp_path_factory.mktemp("trainings")
    ran(folder, "trainings", balls)
    return folder


@pytest.fixture(scope="module")
def ends(folder):
    """How the trainings of each process ended."""
    return [json.loads((folder / f"ends-{rank}").read_text()) for rank in (0, 1)]


def test_every_term_and_head_is_compared():
    assert {term for section in CASES.values() for term in section if term in TERMS} == set(TERMS)


@pytest.mark.parametrize("name", ALL)
def test_two_processes_find_what_one_finds(found, name):
    compare(trained(name), *(load_file(found / f"{ALL.index(name)}-{rank}") for rank in (0, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("learned weights")])
def test_two_processes_with_a_part_of_each_weight_find_what_one_finds(found_in_parts, name):
    compare(trained(name), *(load_file(found_in_parts / f"{ALL.index(name)}-{rank}") for rank in (0, 1)))


def compare(one, first, second):
    """What one process found with what two did."""
    assert one.keys() == first.keys() == second.keys()
    steepest = [
        max(v.abs().max().item() for k, v in one.items() if k.startswith(f"gradient {n}")) for n in range(STEPS)
    ]
    for key, alone in one.items():
        if key.startswith("loss"):  # of a process; their mean is the loss
            mean = (first[key] + second[key]) / 2
            assert torch.allclose(alone, mean, rtol=TOLERANCE, atol=1e-6), (key, alone, mean)
            continue
        assert torch.equal(first[key], second[key]), key  # else processes would drift apart for ever
        if alone.numel():
            most = steepest[int(key.split()[1])] if key.startswith("gradient") else alone.abs().max().item()
            astray = (alone - first[key]).abs().max().item()
            assert astray <= TOLERANCE * most + 1e-6, (key, astray, most)


def test_with_one_process_rows_are_given_back(rng):
    x = torch.from_numpy(rng.normal(size=(6, 2)))
    with together():
        assert gathered(x, 3) is x
        assert torch.equal(own(x, 3), x) and rows_in_all(6) == 6
        assert torch.equal(fetched(x.view(2, 3, 2), torch.tensor([2, 0, 0])), x.view(2, 3, 2)[:, [2, 0, 0]])
        assert torch.equal(mean(x), x)
    assert share() == (0, 1) and anyone(True) and not anyone(False) and agreed(3, "") == 3
    with pytest.raises(ValueError, match="as it was"), failing_together():
        raise ValueError("as it was")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="torchrun: 4 processes for 2 GPUs; give --nproc_per_node 2"):
        join("32-true")


def test_a_weight_of_one_number_cannot_be_spread():
    with pytest.raises(UserError, match=r"weights\.spread\.contrast is one number and cannot be spread"):
        spread(build("learned weights, tokens"), None)


NO_SLOPE = ("stages.0.0.shortcut.1.weight", "vicreg.project.3.bias")
"""Weights that change no loss: the size of a kernel of one voxel and channel before a norm, a shift of all embeddings. Their
slope is rounding, of which Adam, which divides a slope by its size, makes a step as large as any other's."""

CLOSE = 1e-3
"""What a few steps of Adam make of the last bits of a logged number. Halves of a batch that did not know of each other would
differ by a hundred times as much."""

KINK = 0.02
"""The same of the norm of the slopes: a voxel that its last bit puts on the other side of a leaky ReLU's kink was seen to
change it by half a percent."""

CLOSE_IN_HALF = 0.03
"""The same where the network computes with 8 bits, in which a sum of halves is off by one part in 256."""

STRAY = 5e-4
"""How far a weight is led astray by the last bits, which differ from machine to machine: half of one step. A slope that were
another would lead it as far as it goes: lr, 1e-3, in each of six steps."""


def astray(one, other):
    """The largest difference of a weight between two runs."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max((value - second[key]).abs().max().item() for key, value in first.items())


def weights_of(run):
    weights = {name: value.double() for name, value in checkpoint.weights(run / checkpoint.NAME, "").items()}
    return {name: value for name, value in weights.items() if value.numel() and not name.endswith(NO_SLOPE)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "changes"),
    [
        ("whole", pretrain, CHANGES),
        ("parts", pretrain, PARTS),
        ("half", pretrain, HALF),
        ("classifier", finetune, ["finetune.batch=4"]),
    ],
)
def test_a_training_in_two_processes_is_the_training_in_one(balls, folder, ends, tmp_path, name, train, changes):
    assert [end[name] for end in ends] == ["", ""]
    alone, close = tmp_path / "alone", CLOSE_IN_HALF if name == "half" else CLOSE
    train(read_recipe(balls / "recipe.yaml", changes), balls / "store", alone)
    assert name == "half" or astray(alone, folder / name) < STRAY
    for table in ("log.csv", "probes.csv"):
        rows, same = read_log(alone / table), read_log(folder / name / table)
        assert len(rows) == len(same)
        for a, b in zip(rows, same, strict=True):
            assert a.keys() == b.keys()
            for key in a:
                if not key.startswith(("knn_", "linear_")):  # shares of a few scans: they jump
                    rel = max(close, KINK) if key == "gradient_norm" else close
                    assert float(a[key]) == pytest.approx(float(b[key]), rel=rel, nan_ok=True), key
    assert sorted(p.name for p in folder.glob(f"{name}/pictures/*")) == sorted(p.name for p in alone.glob("pictures/*"))
    assert len([*folder.glob(f"{name}/tensorboard/*")]) == 1  # only one process writes


def run_of(path):
    return {name: value for name, value in checkpoint.read(path / checkpoint.NAME).items() if value.numel()}


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "name"), [("whole", "stopped"), ("parts", "stopped in parts")])
def test_all_stop_after_the_step_in_which_one_is_asked_to_and_go_on_from_there(folder, ends, whole, name):
    assert [end[f"{name}, asked"] for end in ends] == ["KeyboardInterrupt: "] * 2
    assert [end[f"{name}, after"] for end in ends] == [3, 3]
    assert [end[name] for end in ends] == ["", ""]
    whole, stopped = run_of(folder / whole), run_of(folder / name)
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("straight", "name", "changes"), [("whole", "stopped", CHANGES), ("parts", "stopped in parts", PARTS)]
)
def test_one_process_goes_on_with_what_two_began(balls, folder, ends, straight, name, changes):
    left = folder / f"left from {name}"
    assert checkpoint.steps_done(left / checkpoint.NAME) == 3
    pretrain(read_recipe(balls / "recipe.yaml", changes), balls / "store", left)
    assert astray(left, folder / straight) < STRAY


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all(folder, ends):
    for end in ends:
        assert end["not finite"].startswith("UserError: step 4: the loss is not finite (rebuild nan, ")
    assert checkpoint.steps_done(folder / "infinite" / checkpoint.NAME) == 4


@pytest.mark.slow
def test_what_the_first_process_cannot_write_stops_all(ends):
    assert [end["full disk"] for end in ends] == [
        "OSError: no space left on device", "UserError: another process of this training failed; what it says is the reason",
    ]  # fmt: skip


@pytest.mark.slow
def test_processes_that_see_different_checkpoints_are_refused(ends):
    for end in ends:
        assert end["two disks"].endswith(": [4, 0] in the 2 processes; give --run a folder that all of them see")


@pytest.mark.slow
def test_processes_that_cannot_share_a_batch_alike_are_refused(ends):
    for end in ends:
        assert "batch: 3 in all, but 2 processes cannot share them alike; give a multiple of 2" in end["odd"]


@pytest.mark.slow
def test_a_pair_that_is_killed_ends_in_the_same_bits(balls, tmp_path):
    """kill -9 of one process, which ends the other, and SIGTERM to torchrun, which hands it on: from the shell."""
    changes = ["pretrain.steps=30", "pretrain.save_every=2", "pretrain.batch=4", "method.rebuild.weight=0.01"]
    options = [part for change in changes for part in ("--set", change)]

    def start(name):
        command = ["-m", "--", "medssl", "pretrain", balls / "recipe.yaml", "--store", balls / "store"]
        return torchrun(*command, "--run", tmp_path / name, *options, stderr=subprocess.PIPE, stdout=subprocess.PIPE)

    def until(name, steps, pair):
        while checkpoint.steps_done(tmp_path / name / checkpoint.NAME) < steps and pair.poll() is None:
            time.sleep(0.05)

    with start("whole") as pair:
        out, errors = pair.communicate(timeout=200)
    assert pair.returncode == 0, errors[-3000:]
    assert out.count("trunk in ") == 1
    with start("killed") as pair:
        until("killed", 4, pair)
        (one, *_) = Path(f"/proc/{pair.pid}/task/{pair.pid}/children").read_text().split()
        os.kill(int(one), signal.SIGKILL)
        pair.communicate(timeout=100)
    assert pair.returncode == 1
    with start("killed") as pair:
        until("killed", 10, pair)
        pair.send_signal(signal.SIGTERM)
        _, errors = pair.communicate(timeout=100)
    done = checkpoint.steps_done(tmp_path / "killed" / checkpoint.NAME)
    assert pair.returncode != 0 and 10 <= done < 30
    assert errors.count("medssl: interrupted; run the same command again to go on") == 2
    with start("killed") as pair:
        pair.communicate(timeout=200)
    whole, killed = run_of(tmp_path / "whole"), run_of(tmp_path / "killed")
    assert whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)


LEAVES = """
import torch
from medssl.place import join

join("32-true")
for _ in range(50):
    torch.distributed.all_gather([torch.zeros(()) for _ in range(3)], torch.zeros(()))
"""


@pytest.mark.slow
def test_processes_that_leave_right_after_a_message_do_not_abort(tmp_path):
    """Gloo's threads let go of its tensors in time. Half of such trios aborted before this was seen to."""
    (tmp_path / "leaves.py").write_text(LEAVES)
    with torchrun(tmp_path / "leaves.py", processes=3, stderr=subprocess.PIPE) as three:
        _, errors = three.communicate(timeout=100)
    assert three.returncode == 0, errors[-3000:]


if __name__ == "__main__":
    to, kind, *more = sys.argv[1:]
    if kind == "trainings":
        text = json.dumps(trainings(Path(*more), Path(to)))  # which is where the processes meet
        Path(to, f"ends-{share()[0]}").write_text(text)
    else:
        for number, name in enumerate(ALL):
            if kind == "ddp" or not name.startswith("learned weights"):
                tensors = trained(name, kind)
                save_file(tensors, Path(to, f"{number}-{share()[0]}"))
