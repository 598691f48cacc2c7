"""A loss that rises for good stops a run; one that is only noisy never does."""

import numpy as np
import pytest

from medssl import checkpoint, divergence
from medssl.divergence import Rise
from medssl.errors import UserError
from medssl.methods.rebuild import Rebuild
from medssl.recipe import read_recipe
from medssl.train import pretrain
from tests.methods.test_every_method import stopped_after

FALLEN = [10.0] * 50 + [2.0] * 100


def stops(losses, run, share=1.0):
    """The number of the row at which the run is stopped; None when it never is."""
    rise = Rise(share, run)
    for number, loss in enumerate(losses):
        try:
            rise.check({"step": number, "lr": 9e9, "gradient_norm": 9e9, "a": 0.75 * loss, "b": 0.25 * loss})
        except UserError:
            return number
    return None


def twin(losses, share):
    """The rule as it is written, from the whole history at each row."""
    for number in range(100, len(losses) + 1):
        history = np.array(losses[:number])
        windows = np.lib.stride_tricks.sliding_window_view(history, 50)
        medians = np.median(windows, axis=1)
        low, high = np.percentile(windows[medians == medians.min()], [16, 84], axis=1)
        scatter = (high - low).min() / 2
        fallen = np.median(history[:50]) - medians.min()
        level = medians.min() + max(share * fallen, 4 * scatter)
        if (history[-50:] > level).sum() >= 45:
            return number - 1
    return None


@pytest.mark.parametrize(
    ("share", "back", "stopped"),
    [(1.0, 10.1, True), (1.0, 9.9, False), (0.5, 6.1, True), (0.5, 5.9, False), (2.0, 17.9, False), (2.0, 18.1, True)],
)
def test_the_level_is_a_share_of_the_way_back_to_the_beginning(tmp_path, share, back, stopped):
    """After 45 of 50 rows above it, and not before."""
    assert stops(FALLEN + [back] * 60, tmp_path, share) == (194 if stopped else None)
    assert stops(FALLEN + [back] * 44 + [2.0] * 60, tmp_path, share) is None


@pytest.mark.parametrize(("scale", "shift"), [(1000.0, 0.0), (1.0, -100.0), (0.001, 5.0)])
def test_the_rule_knows_no_unit(tmp_path, scale, shift):
    for back in (9.9, 10.1):
        plain, other = FALLEN + [back] * 60, [scale * loss + shift for loss in FALLEN + [back] * 60]
        assert stops(plain, tmp_path) == stops(other, tmp_path)


def test_it_is_off_by_default(balls, tmp_path):
    assert stops(FALLEN + [1e9] * 200, tmp_path, share=0) is None
    with pytest.raises(UserError, match=r"may_rise: -1\.0 must be at least 0"):
        pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.may_rise=-1"]), balls / "store", tmp_path / "run")


def healthy(kind, rng, rows=600):
    """Losses of trainings that are well, though they do not look so."""
    t = np.arange(rows)
    noise = rng.standard_normal(rows)
    return {
        "falling": 1 + 4 * np.exp(-t / 100) + 0.3 * noise,
        "never learned": 5 + noise,
        "noise that grows with the loss": (1 + 4 * np.exp(-t / 100)) * np.exp(0.8 * noise),
        "outliers": 1 + 4 * np.exp(-t / 50) + 0.1 * noise + 1000 * (rng.random(rows) < 0.05),
        "spikes that heal": 1 + 4 * np.exp(-t / 50) + 0.1 * noise + 50 * (t % 100 > 65) * (t > 100),
        "falls late": 5 + 0.1 * noise - 3 / (1 + np.exp(-(t - 400) / 20)),
        "rises by half": 1 + 4 * np.exp(-t / 40) + 2 * t / rows + 0.2 * noise,
        "batches of two kinds": np.where(rng.random(rows) < 0.5, 1, 6) * (0.4 + np.exp(-t / 100)) + 0.1 * noise,
    }[kind]


@pytest.mark.parametrize("kind", [
    "falling", "never learned", "noise that grows with the loss", "outliers", "spikes that heal", "falls late",
    "rises by half", "batches of two kinds",
])  # fmt: skip
def test_a_healthy_run_is_never_stopped(tmp_path, kind):
    for seed in range(8):
        losses = healthy(kind, np.random.default_rng(seed))
        assert stops(losses, tmp_path) is None


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_it_is_the_rule_that_is_written(tmp_path, share):
    stopped = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        losses = 1 + 4 * np.exp(-np.arange(400) / 40) + 0.3 * rng.standard_normal(400)
        losses[250 + 10 * seed :] += np.linspace(0, 8, 150 - 10 * seed) * (seed % 3 > 0)
        found = stops([float(f"{loss:.6g}") for loss in losses], tmp_path, share)
        assert found == twin(losses, share)
        stopped += found is not None
    assert stopped == 4


def test_a_run_that_diverges_is_stopped_and_its_good_weights_are_kept(balls, tmp_path, monkeypatch):
    """With windows of four rows: the loss is 4, then 2, and from step 13 on 8; it is saved at every second step."""
    monkeypatch.setattr(divergence, "WINDOW", 4)
    monkeypatch.setattr(divergence, "LATELY", 1)
    forward = Rebuild.forward
    steps = []

    def made(self, bank):
        loss = forward(self, bank)
        now = len(steps)
        return loss / loss.detach() * (4 if now < 4 else 2 if now < 13 else 8)

    def progress(items, *_):
        for item in items:
            steps[:] = [0] * item
            yield item

    monkeypatch.setattr(Rebuild, "forward", made)
    changes = ["pretrain.steps=30", "pretrain.save_every=2", "pretrain.may_rise=1", "method={rebuild: {}}"]
    recipe, run = read_recipe(balls / "recipe.yaml", changes), tmp_path / "run"
    told = (
        r"step 16: the loss has risen for good: it began at 4 and had come down to 2, but 4 of the last 4 rows of log.csv "
        r"are above 4; lower lr or raise warmup and train anew, .*; good.safetensors holds the weights from before"
    )
    with pytest.raises(UserError, match=told):
        pretrain(recipe, balls / "store", run, progress=progress)
    # Saved after 12 steps, and the loss of step 12 was still 2; what was saved after 14 is from when it was 8.
    assert checkpoint.steps_done(run / "last.safetensors") == 16
    assert checkpoint.steps_done(run / "good.safetensors") == 10
    good = (run / "good.safetensors").read_bytes()
    with pytest.raises(UserError, match=told):  # going on comes to the same end
        pretrain(recipe, balls / "store", run, progress=progress)
    assert (run / "good.safetensors").read_bytes() == good

    def halves(items, *_):
        yield from stopped_after(14)(progress(items), *_)

    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, balls / "store", tmp_path / "halves", progress=halves)
    with pytest.raises(UserError, match=told):
        pretrain(recipe, balls / "store", tmp_path / "halves", progress=progress)
    assert (tmp_path / "halves" / "good.safetensors").read_bytes() == good


def test_where_it_is_off_no_checkpoint_is_kept_twice(balls, tmp_path):
    run = pretrain(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path / "run")
    assert [path.name for path in run.glob("*.safetensors")] == ["last.safetensors"]
