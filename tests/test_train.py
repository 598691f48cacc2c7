import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.rehearsal import PLANS
from medssl.runs import Log, digest, occupied, read_log, read_run
from medssl.store import open_store
from medssl.train import Training, _groups, plan, pretrain


def tensors(run):
    return checkpoint.read(run / "last.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_weights_log_and_pictures(balls, tmp_path):
    run = pretrain(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(run / "last.safetensors") == 6
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(6))
    assert {"lr", "gradient_norm", "rebuild", "contrast"} <= set(rows[0])
    assert [p.name for p in sorted((run / "pictures").iterdir())] == [
        "step-000001.png",
        "step-000005.png",
        "step-000006.png",
    ]
    assert list((run / "tensorboard").iterdir())
    record = json.loads((run / "run.json").read_text())
    assert record["recipe"]["pretrain"]["steps"] == "6"
    assert record["versions"]["torch"] == torch.__version__


def test_a_finished_run_is_kept_and_another_recipe_is_refused(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=2"])
    run = pretrain(recipe, balls / "store", tmp_path / "run")
    before = (run / "last.safetensors").stat().st_mtime_ns
    pretrain(recipe, balls / "store", run)
    assert (run / "last.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"another recipe \(differs in pretrain\)"):
        pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=3"]), balls / "store", run)


def test_accumulated_batches_make_one_step(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=2", "pretrain.accumulate=3"])
    run = pretrain(recipe, balls / "store", tmp_path / "run")
    assert len(read_log(run / "log.csv")) == 2
    plain = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=2"]), balls / "store", tmp_path / "plain")
    assert not same(tensors(run), tensors(plain))


@pytest.mark.parametrize("part", ["pretrain", "finetune"])
def test_weights_decay_and_biases_and_scales_do_not(balls, part):
    """A step of AdamW without a slope takes lr x decay of a weight, and nothing of what has one axis."""
    recipe = read_recipe(balls / "recipe.yaml", [f"{part}.weight_decay=0.5", "finetune.trunk_lr=0.1"])
    planned = PLANS[part](recipe, open_store(balls / "store"))
    before = {name: value.detach().clone() for name, value in planned.model.named_parameters()}
    groups = [{**group, "lr": 0.2 * group["scale"]} for group in _groups(planned.model, planned.settings)]
    for parameter in planned.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups).step()
    flat = {name for name, value in before.items() if value.ndim <= 1}
    assert {name for name in before if name.endswith("bias")} <= flat < set(before)
    for name, value in planned.model.named_parameters():
        rate = 0.2 * (0.1 if part == "finetune" and name.startswith("trunk.") else 1.0)
        assert torch.allclose(value, before[name] * (1.0 if name in flat else 1 - 0.5 * rate)), name
        assert name in flat or not torch.equal(value, before[name])


def test_workers_change_nothing(balls, tmp_path):
    changes = ["pretrain.steps=3"]
    alone = pretrain(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "a")
    helped = pretrain(
        read_recipe(balls / "recipe.yaml", [*changes, "pretrain.workers=1"]), balls / "store", tmp_path / "b"
    )
    assert same(tensors(alone), tensors(helped))


def test_a_second_stage_goes_on_from_the_first_and_leaves_what_is_frozen(balls, tmp_path):
    first = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=2"]), balls / "store", tmp_path / "first")
    changes = ["pretrain.steps=3", "pretrain.frozen=[trunk]", "pretrain.seed=1"]
    second = pretrain(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "second", start=first)
    before, after = tensors(first), tensors(second)
    trunk = [name for name in before if name.startswith("model.trunk.")]
    decoder = [name for name in before if name.startswith("model.decoder.") and before[name].ndim > 1]
    assert trunk and all(torch.equal(before[name], after[name]) for name in trunk)
    assert decoder and not any(torch.equal(before[name], after[name]) for name in decoder)
    assert read_run(second)["facts"]["start"].startswith("pretrained on store ")
    with pytest.raises(UserError, match="frozen: 'head' is no part"):
        pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.frozen=[head]"]), balls / "store", tmp_path / "third")
    with pytest.raises(UserError, match="does not fit this recipe's"):
        other = read_recipe(balls / "recipe.yaml", ["trunk.widths=[4, 6]"])
        pretrain(other, balls / "store", tmp_path / "fourth", start=first)


def test_the_teacher_of_a_second_stage_begins_as_its_trunk(balls, tmp_path):
    first = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=1"]), balls / "store", tmp_path / "first")
    recipe = read_recipe(balls / "recipe.yaml", ["method={teacher_half_life: 0.1, byol: {}}"])
    model = plan(recipe, open_store(balls / "store"), first).model
    begun = tensors(first)
    for name, mine in model.trunk.named_parameters():
        assert torch.equal(mine, begun[f"model.trunk.{name}"])
        assert torch.equal(mine, model.teacher.twin.get_parameter(name))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(balls, tmp_path, monkeypatch):
    from medssl.methods.rebuild import Rebuild

    calls = []
    forward = Rebuild.forward

    def breaks(self, bank):
        calls.append(1)
        return forward(self, bank) * (np.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(Rebuild, "forward", breaks)
    with pytest.raises(UserError, match=r"step 4: the loss is not finite .rebuild nan"):
        pretrain(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") == 4


def test_a_slope_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(balls, tmp_path, monkeypatch):
    """The loss stays finite, so only the gradient tells; without the check step 4 would be saved with weights of nan."""
    from medssl.methods.rebuild import Rebuild

    calls = []
    forward = Rebuild.forward

    def steep(self, bank):
        calls.append(1)
        loss = forward(self, bank)
        if len(calls) == 4:
            loss.register_hook(lambda slope: slope * np.inf)
        return loss

    monkeypatch.setattr(Rebuild, "forward", steep)
    with pytest.raises(UserError, match=r"step 3: the norm of the gradient is (nan|inf); lower lr"):
        pretrain(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") == 2
    assert all(value.isfinite().all() for value in tensors(tmp_path / "run").values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_that_asks_to_stop_gets_a_checkpoint_from_which_the_run_ends_in_the_same_bits(
    balls, tmp_path, monkeypatch, number
):
    from medssl.methods.rebuild import Rebuild

    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.save_every=100"])
    whole = pretrain(recipe, balls / "store", tmp_path / "whole")
    calls = []
    forward = Rebuild.forward

    def asked(self, bank):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return forward(self, bank)

    before = signal.getsignal(number)
    monkeypatch.setattr(Rebuild, "forward", asked)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") == 3
    assert signal.getsignal(number) == before
    assert same(tensors(whole), tensors(pretrain(recipe, balls / "store", tmp_path / "run")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_process_group_loses_no_step_where_workers_draw(balls, tmp_path, number):
    """As Slurm sends it: to the main process and to each of its workers."""
    changes = ["pretrain.steps=100000", "pretrain.save_every=100000", "pretrain.workers=2"]
    command = [sys.executable, "-m", "medssl", "pretrain", str(balls / "recipe.yaml"), "--store", str(balls / "store")]
    command += ["--run", str(tmp_path / "run"), *(part for change in changes for part in ("--set", change))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
        while process.poll() is None and len(read_log(tmp_path / "run" / "log.csv")) < 3:
            time.sleep(0.02)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "run the same command again to go on" in said
    rows = read_log(tmp_path / "run" / "log.csv")
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") == len(rows) >= 3


def test_times_are_told_beside_the_log(balls, tmp_path, monkeypatch):
    """Every batch takes a tenth of a second more to draw: the network waits for it."""
    from medssl.views import Steps

    draw = Steps.__getitem__
    monkeypatch.setattr(Steps, "__getitem__", lambda self, step: (time.sleep(0.1), draw(self, step))[1])
    run = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.log_every=2"]), balls / "store", tmp_path / "run")
    rows, times = read_log(run / "log.csv"), read_log(run / "times.csv")
    assert [row["step"] for row in times] == [row["step"] for row in rows] == ["0", "2", "4", "5"]
    for row, steps in zip(times, (1, 2, 2, 1), strict=True):
        assert float(row["seconds"]) > float(row["waiting"]) >= 0.1 * steps


def test_too_few_views_are_refused_before_any_work(balls, tmp_path):
    with pytest.raises(UserError, match=r"views\.count: 1, but method compares 2"):
        pretrain(read_recipe(balls / "recipe.yaml", ["views.count=1"]), balls / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_log_forgets_what_a_resumed_run_will_do_again(tmp_path):
    log = Log(tmp_path / "log.csv", 0)
    for step in range(5):
        log.write({"step": step, "loss": 1 / (step + 1)})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("5,0.1")  # cut short by a kill, yet a whole row: it will be written again
    log = Log(tmp_path / "log.csv", 3)
    log.write({"step": 3, "loss": 0.5})
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == ["0", "1", "2", "3"]


def test_defaults_are_a_whole_training():
    assert Training(steps=1).accumulate == 1


@pytest.mark.slow
def test_a_run_killed_at_any_step_ends_in_the_same_bits(balls, tmp_path):
    """kill -9 at random moments of a real process, again and again until it is through."""
    changes = ["pretrain.steps=40", "pretrain.save_every=3", "method.teacher_half_life=0.1"]
    changes += ["method.contrast={teacher: true, weight: 0.1}", "pretrain.precision=bf16-mixed"]
    recipe = read_recipe(balls / "recipe.yaml", changes)
    threads, rng = torch.get_num_threads(), np.random.default_rng(int(time.time()))
    whole = pretrain(recipe, balls / "store", tmp_path / "whole")
    command = [sys.executable, "-m", "medssl", "pretrain", str(balls / "recipe.yaml"), "--store", str(balls / "store")]
    command += ["--run", str(tmp_path / "killed"), *(part for change in changes for part in ("--set", change))]
    kills, last = 0, tmp_path / "killed" / "last.safetensors"
    for _ in range(60):
        started = checkpoint.steps_done(last)
        process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stderr=subprocess.DEVNULL
        )
        if kills < 3:
            while process.poll() is None and checkpoint.steps_done(last) <= started:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
    assert kills >= 1
    assert same(tensors(whole), tensors(tmp_path / "killed"))
    assert [row["step"] for row in read_log(whole / "log.csv")] == [
        row["step"] for row in read_log(tmp_path / "killed" / "log.csv")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "lr=-1",
        "warmup=10",
        "clip=0",
        "workers=-1",
        "weight_decay=-1",
        "steps=0",
        "batch=-1",
        "save_every=0",
        "may_rise=-1",
    ],
)
def test_settings_that_would_ruin_a_run_are_refused(balls, tmp_path, wrong):
    name = wrong.partition("=")[0]
    with pytest.raises(UserError, match=rf"pretrain\.{name}: .* must be"):
        pretrain(read_recipe(balls / "recipe.yaml", [f"pretrain.{wrong}"]), balls / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_log_keeps_its_rows_beyond_a_million_steps(tmp_path):
    log = Log(tmp_path / "log.csv", 0)
    for step in (999_990, 1_000_000, 12_345_678):
        log.write({"step": step, "loss": 0.5})
    assert [int(row["step"]) for row in read_log(tmp_path / "log.csv")] == [999_990, 1_000_000, 12_345_678]
    Log(tmp_path / "log.csv", 1_000_005)
    assert [int(row["step"]) for row in read_log(tmp_path / "log.csv")] == [999_990, 1_000_000]


def test_two_trainings_do_not_share_a_folder(balls, tmp_path):
    left = tmp_path / "run" / ".last.safetensors.1.part"
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=1"])
    with occupied(tmp_path / "run"), pytest.raises(UserError, match="another training is writing to it"):
        pretrain(recipe, balls / "store", tmp_path / "run")
    left.touch()
    pretrain(recipe, balls / "store", tmp_path / "run")
    assert not left.exists()


def test_a_run_knows_the_splits_of_its_store(balls):
    store = open_store(balls / "store")
    before = digest(store)
    moved = store.volumes["split"].eq("val").idxmax()
    store.volumes.loc[moved, "split"] = "train"
    assert digest(store) != before


@pytest.mark.parametrize("change", ["trunk=vit", "views=16", "views.small=3", "method=vicreg"])
def test_text_in_place_of_a_section_is_refused(balls, tmp_path, change):
    with pytest.raises(UserError, match=r"is not a section; write it as"):
        pretrain(read_recipe(balls / "recipe.yaml", [change]), balls / "store", tmp_path / "run")
