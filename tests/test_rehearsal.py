"""What a rehearsal tells is what the training does; nothing of it stays."""

import tempfile
import time
from dataclasses import replace

import pytest
import torch

from medssl import checkpoint, train
from medssl.cli import main
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.rehearsal import Cost, _typical, rehearse, size, span
from medssl.runs import read_log
from medssl.train import pretrain
from medssl.views import Steps

COST = Cost(
    kind="pretrain", device="cpu", precision="32-true", volumes=50, parameters=20, trained=10, scans=4, steps=100,
    counted=8, step=2.0, data=0.25, workers=0, other={"checkpoints": (4, 5.0), "looks": (3, 60.0)}, peak=3 * 10**9,
    weights=80, optimizer=80, kept=10**8, cores=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Four steps are enough, and temporary folders are where the tests can see them."""
    monkeypatch.setattr("medssl.rehearsal.MOST", 4)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def test_the_whole_takes_its_steps_and_all_that_is_between_them():
    assert COST.total == 100 * 2.0 + 4 * 5.0 + 3 * 60.0
    assert COST.network == 1.75
    told = "\n".join(COST.lines(per_hour=9))
    assert "100 steps, 8 passes over the volumes: 6 min 40 s with 4 checkpoints of 5 s, 3 looks of 1 min 0 s" in told
    assert "price: 1.00 at 9 an hour" in told
    assert "price" not in "\n".join(COST.lines())


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0123, "12.3 ms"), (1.25, "1.25 s"), (59.96, "60 s"), (61, "1 min 1 s"), (3599.6, "1 h 0 min"),
     (86400 * 2 + 3600 * 3 + 59, "2 d 3 h")],
)  # fmt: skip
def test_times_are_told_as_people_say_them(seconds, told):
    assert span(seconds) == told


def test_sizes_are_told_as_people_say_them():
    assert (size(1_310_000_000), size(12_500_000)) == ("1.31 GB", "12.5 MB")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        # One process draws for 1 s while the network works for .4 s: three drawing side by side keep up with it.
        ({"step": 1.4, "data": 1.0}, "raise pretrain.workers from 0 to 3"),
        # Two workers give a batch every 2 s, so one takes 4 s to draw; the network needs one every .5 s: eight.
        ({"step": 2.0, "data": 1.5, "workers": 2, "cores": 64}, "raise pretrain.workers from 2 to 8"),
        ({"step": 2.0, "data": 1.5, "workers": 2, "cores": 6}, "raise pretrain.workers from 2 to 5"),
        ({"step": 2.0, "data": 1.5, "workers": 7}, "all 8 cores have work to do"),
        ({"step": 1.0, "data": 0.5, "cores": 1}, "all 1 cores have work to do"),
        ({"step": 1.0, "data": 0.2}, None),
    ],
)
def test_a_slow_loader_is_told_with_the_key_to_change(changes, remedy):
    warnings = [line for line in replace(COST, **changes).lines() if "bottleneck" in line]
    assert len(warnings) == (remedy is not None)
    assert all(remedy in line for line in warnings)


def test_a_machine_with_other_work_is_told():
    assert not [line for line in replace(COST, load=4.0).lines() if "other work" in line]
    (line,) = [line for line in replace(COST, load=4.1).lines() if "other work" in line]
    assert "load 4.1 on 8 cores" in line


def test_batches_of_several_workers_come_in_rounds():
    """A median of steps would say that there is no wait at all."""
    assert _typical([3.0, 0, 0, 3.0, 0, 0, 9.0, 0, 0], 3) == 1.0
    assert _typical([1.0, 2.0, 9.0], 1) == 2.0


@pytest.mark.parametrize("frozen", [[], ["trunk"]])
def test_memory_and_parameters_are_those_of_the_model(balls, tmp_path, frozen):
    recipe = read_recipe(balls / "recipe.yaml", [f"pretrain.frozen=[{','.join(frozen)}]"])
    found = rehearse(recipe, balls / "store", "pretrain")
    planned = train.plan(recipe, train.open_store(balls / "store"))
    parameters = dict(planned.model.named_parameters())
    trained = {name: p for name, p in parameters.items() if name.split(".")[0] not in frozen}
    assert found.parameters == sum(p.numel() for p in parameters.values())
    assert found.trained == sum(p.numel() for p in trained.values())
    assert found.weights == 4 * found.parameters + sum(b.nbytes for b in planned.model.buffers())
    assert found.optimizer == 4 * (2 * found.trained + len(trained))  # two moments and a count
    assert found.volumes == len(planned.batches.ids) == 22
    voxels = 20 * 24 * 16
    assert found.kept == 22 * voxels * 2
    assert found.peak > 10**8
    assert found.scans == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_what_happens_between_steps_is_counted_as_the_training_does_it(balls, tmp_path, monkeypatch):
    changes = ["probe={every: 2, volumes: 12, few: 4}", "pretrain.steps=5", "pretrain.picture_every=3"]
    recipe = read_recipe(balls / "recipe.yaml", changes)
    found = rehearse(recipe, balls / "store", "pretrain").other
    saves, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given: (saves.append(1), save(*given)))
    run = pretrain(recipe, balls / "store", tmp_path / "run")
    assert {name: count for name, (count, _) in found.items()} == {
        "checkpoints": len(saves),
        "pictures": len(list((run / "pictures").iterdir())),
        "looks": len(read_log(run / "probes.csv")),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_the_wait_for_data_is_told_apart(balls, monkeypatch, workers):
    """Each batch takes longer to draw; one worker draws while the network works, but no faster."""
    draw = Steps.__getitem__
    monkeypatch.setattr(Steps, "__getitem__", lambda self, step: (time.sleep(0.15), draw(self, step))[1])
    changes = [f"pretrain.workers={workers}", "pretrain.accumulate=2"]
    found = rehearse(read_recipe(balls / "recipe.yaml", changes), balls / "store", "pretrain")
    assert found.step >= 0.3
    assert found.data >= (0.3 if workers == 0 else 0.0)
    assert found.scans == 4
    assert found.counted == 4


def test_fine_tuning_is_rehearsed_likewise(balls):
    found = rehearse(read_recipe(balls / "recipe.yaml", ["data.labelled=8"]), balls / "store", "finetune")
    assert found.kind == "finetune"
    assert found.volumes < 22


def test_a_rehearsal_changes_nothing_of_the_training(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=3"])
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        pretrain(recipe, balls / "store", run)
        rehearse(recipe, balls / "store", "pretrain")
    first, second = (checkpoint.read(run / checkpoint.NAME) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_the_training_refuses_is_refused(balls):
    with pytest.raises(UserError, match="did you mean 'steps'"):
        rehearse(read_recipe(balls / "recipe.yaml", ["pretrain.step=3"]), balls / "store", "pretrain")


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_command_line_rehearses_and_writes_no_folder(command, balls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [command, str(balls / "recipe.yaml"), "--store", str(balls / "store")]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--dry-run", "--per-hour", "2.5", "--run", "run"])
    assert not left.value.code
    told = capsys.readouterr().out
    for word in ("22 volumes", "parameters", "on cpu", "32-true", "memory: peak", "a step of 2 scans", "price: "):
        assert word in told
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "--run: a training needs a folder" in capsys.readouterr().err


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    with pytest.raises(UserError, match="--dry-run: 2 processes, but it measures one"):
        rehearse({}, tmp_path, "pretrain")
