"""Looks at a pretraining while it runs: no bit of it changes, a resume finds the same, a collapse is seen."""

import math

import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError
from medssl.methods import TERMS, build_method
from medssl.methods.byol import BYOL
from medssl.probe.guard import collapsed, head_of, measure
from medssl.probe.online import HEALTHY, TABLE, read_rows, undisturbed
from medssl.recipe import read_recipe
from medssl.train import pretrain
from medssl.trunks import build_trunk
from medssl.views import Batch

LOOK = "probe={every: 2, volumes: 12, few: 4}"
TAUGHT = {name for name in TERMS if name in ("byol", "dino", "ibot")}


def batch_of(dims=3, views=3, scans=8, seed=0):
    rng = torch.Generator().manual_seed(seed)
    size = (16,) * dims
    to_mm = torch.eye(4, dtype=torch.float64).expand(views, scans, 4, 4).clone()
    return Batch(
        x=torch.randn(views, scans, 1, *size, generator=rng) + 3, to_mm=to_mm, patient=torch.arange(scans),
        scanner=torch.arange(scans) % 2, target=torch.empty(0),
        where=torch.rand(views, scans, 3, generator=rng).double(),
    )  # fmt: skip


def method_of(name, dims=3, **settings):
    torch.manual_seed(0)
    trunk = build_trunk({"name": "resenc", "widths": ["4", "8"], "strides": []}, (16,) * dims)
    section = {name: {key: str(value) for key, value in settings.items()}}
    if name in TAUGHT:
        section["teacher_half_life"] = "0.1"
    return build_method(section, trunk)


def say_nothing(method):
    """The head of the one term says the same of everything, as it does when it has collapsed."""
    (term,) = method.terms.values()
    head = head_of(term)
    last = head[-1] if isinstance(head, torch.nn.Sequential) else head
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return term, last


def tensors(run):
    return checkpoint.read(run / "last.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", TERMS)
def test_a_look_leaves_every_method_as_it_was(name, dims):
    method = method_of(name, dims).train()
    method.trunk.eval()  # a part that was in another mode stays in it
    before = {key: value.clone() for key, value in method.state_dict().items()}
    modes = [part.training for part in method.modules()]
    state = torch.get_rng_state()
    with undisturbed(method):
        found = measure(method, [batch_of(dims), batch_of(dims, seed=1)])
        assert not any(part.training for part in method.modules())
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())
    assert modes == [part.training for part in method.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_hooks for part in method.modules())
    assert all(p.grad is None for p in method.parameters())
    assert set(found) == {f"{what}_{name}" for what in ("loss", "stuck", "rank")}
    assert math.isfinite(found[f"loss_{name}"]) and math.isfinite(found[f"stuck_{name}"])


@pytest.mark.parametrize(
    ("name", "settings", "value"),
    [
        ("swav", {"prototypes": 32}, math.log(32)),
        ("dino", {"prototypes": 64}, math.log(64)),
        ("ibot", {"prototypes": 16}, math.log(16)),
        ("order", {"along": 2, "apart": 0.0}, math.log(2)),
        ("contrast", {"same_scanner": "false"}, math.log(8 * 3 - 1)),
        ("vicreg", {}, 25 * (1 - math.sqrt(1e-4))),
    ],
)
def test_the_stuck_value_is_the_one_that_is_known(name, settings, value):
    """With a head that says nothing the loss is the textbook's value, and so is what it is held against."""
    method = method_of(name, **settings).eval()
    say_nothing(method)
    for part in method.averages.values():
        for parameter in part.parameters():
            parameter.zero_()
    with undisturbed(method):
        found = measure(method, [batch_of()])
    assert found[f"loss_{name}"] == pytest.approx(value, rel=1e-4)
    assert found[f"stuck_{name}"] == pytest.approx(value, rel=1e-4)


def test_a_rebuild_is_stuck_at_the_variance_of_what_it_rebuilds():
    method = method_of("rebuild").eval()
    _, last = say_nothing(method)
    batch = batch_of()
    torch.nn.init.constant_(last.bias, float(batch.x.mean()))
    found = measure(method, [batch])
    assert found["stuck_rebuild"] == pytest.approx(float(batch.x.var()), rel=0.02)
    assert found["loss_rebuild"] == pytest.approx(found["stuck_rebuild"])
    torch.nn.init.normal_(last.weight)
    assert measure(method, [batch])["stuck_rebuild"] != measure(method, [batch])["loss_rebuild"]


def rows(**columns):
    plain = {"loss_swav": 2.0, "stuck_swav": math.log(32), "rank_swav": 9.0, "rank_trunk": 20.0}
    longest = max(len(values) for values in columns.values())
    return [{**plain, **{key: values[n] for key, values in columns.items()}} for n in range(longest)]


def test_the_guard_fires_when_it_has_been_so_for_long():
    stuck = 0.995 * math.log(32)
    assert "within 1% of 3.466" in collapsed(rows(loss_swav=[stuck] * 3), 3)
    assert collapsed(rows(loss_swav=[stuck] * 2), 3) == ""
    assert collapsed(rows(loss_swav=[stuck, stuck, 3.3, stuck]), 3) == ""
    assert "uses 1.8 directions" in collapsed(rows(rank_swav=[1.8] * 3), 3)
    assert "trunk: " in collapsed(rows(rank_trunk=[1.2] * 3), 3)
    assert collapsed(rows(rank_swav=[math.nan] * 3), 3) == ""
    assert collapsed(rows(loss_swav=[0.0] * 3), 3) == ""


def test_looks_change_no_bit_and_a_resumed_run_has_the_same_ones(balls, tmp_path, monkeypatch):
    store, recipe = balls / "store", read_recipe(balls / "recipe.yaml", [LOOK])
    plain = pretrain(read_recipe(balls / "recipe.yaml"), store, tmp_path / "plain")
    watched = pretrain(recipe, store, tmp_path / "watched")
    assert equal(tensors(plain), tensors(watched))
    assert (plain / "log.csv").read_bytes() == (watched / "log.csv").read_bytes()
    assert not (plain / TABLE).exists()
    looks = read_rows(watched)
    assert [look["step"] for look in looks] == [0, 2, 4, 5]
    assert {"rank_trunk", "knn_big", "linear_big", "knn_scanner", "knn_sex", "loss_rebuild", "stuck_contrast"} <= set(
        looks[0]
    )

    from medssl.probe import online

    calls, look = [], online.Online.look

    def dies(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(self)

    monkeypatch.setattr(online.Online, "look", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, store, tmp_path / "killed")
    pretrain(recipe, store, tmp_path / "killed")
    assert equal(tensors(plain), tensors(tmp_path / "killed"))
    assert (watched / TABLE).read_bytes() == (tmp_path / "killed" / TABLE).read_bytes()


FAST = ["pretrain.steps=40", "pretrain.batch=8", "pretrain.save_every=5", "probe={every: 5, volumes: 12}"]
COLLAPSING = "method={teacher_half_life: 0.01, byol: {weight: 1}}"


@pytest.fixture
def no_predictor(monkeypatch):
    """BYOL without its predictor, which is what keeps it from saying the same of everything."""
    forward = BYOL.forward

    def unpredicted(self, bank):
        self.predict = torch.nn.Identity()
        return forward(self, bank)

    monkeypatch.setattr(BYOL, "forward", unpredicted)


def test_a_planted_collapse_stops_the_run(balls, tmp_path, no_predictor):
    recipe = read_recipe(balls / "recipe.yaml", [*FAST, COLLAPSING, "pretrain.lr=0.02", "probe.stop=true"])
    with pytest.raises(UserError, match=r"collapsed: byol: .*lower lr"):
        pretrain(recipe, balls / "store", tmp_path / "run")
    looks = read_rows(tmp_path / "run")
    bad = [bool(collapsed([look], 1)) for look in looks]
    assert bad[-3:] == [True] * 3
    assert not any(all(bad[n : n + 3]) for n in range(len(bad) - 3))
    assert looks[-1]["step"] < 40
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") > 0


def scans(count, seed, dims=2):
    """Scans of patients who differ in what is bright where, each seen twice with noise of its own."""
    rng = torch.Generator().manual_seed(seed)
    body = torch.nn.functional.interpolate(torch.randn(count, 1, *(4,) * dims, generator=rng), scale_factor=4)
    x = torch.stack([body + 0.3 * torch.randn(body.shape, generator=rng) for _ in range(3)])
    return batch_of(dims, 3, count)._replace(x=x)


def looks_at(method, lr, steps=60):
    """What three looks find, the last two after halves of a training."""
    optimizer, found = torch.optim.AdamW(method.parameters(), lr=lr), []
    for step in range(steps + 1):
        if step % (steps // 2) == 0:
            with undisturbed(method):
                found.append({"rank_trunk": 9.0, **measure(method, [scans(16, 1000)])})
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(method(scans(16, step)).values()).backward()
        optimizer.step()
        method.after_step(steps)
    return found


@pytest.mark.parametrize("name", ["contrast", "vicreg"])
def test_healthy_methods_are_left_alone(name):
    method = method_of(name, 2, **({"same_scanner": "false"} if name == "contrast" else {}))
    found = looks_at(method, 3e-3)
    assert collapsed(found[1:], 1) == ""
    assert found[-1][f"loss_{name}"] < 0.9 * found[-1][f"stuck_{name}"]


@pytest.mark.parametrize("name", ["byol", "swav"])
def test_planted_collapses_are_seen(name, no_predictor):
    found = looks_at(method_of(name, 2), 0.03 if name == "byol" else 1.0)
    assert collapsed(found[1:], 2).startswith(f"{name}: its ")


def test_without_stop_the_run_goes_on_and_says_so_once(balls, tmp_path, no_predictor, caplog):
    recipe = read_recipe(balls / "recipe.yaml", [*FAST, COLLAPSING, "pretrain.lr=0.02", "pretrain.steps=25"])
    run = pretrain(recipe, balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(run / "last.safetensors") == 25
    said = [record.getMessage() for record in caplog.records if record.name == "medssl"]
    assert len(said) == 1 and "collapsed: byol: " in said[0]
    assert not (run / HEALTHY).exists()


def test_impossible_looks_are_refused_before_anything_is_written(balls, tmp_path):
    for change, words in (
        ("every=0", "give 1 or more"),
        ("evry=3", "did you mean 'every'"),
        ("few=1", "give 2 or more"),
    ):
        with pytest.raises(UserError, match=words):
            pretrain(read_recipe(balls / "recipe.yaml", [LOOK, f"probe.{change}"]), balls / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_weights_before_the_last_healthy_look_are_kept(balls, tmp_path, monkeypatch):
    """Looks at 0, 4, 8 find nothing wrong, those at 12, 16 and 20 a flat head; a checkpoint is written every 3 steps."""
    from medssl.probe import online

    ranks = iter([9.0, 9.0, 9.0, 1.2, 1.1, 1.0])
    monkeypatch.setattr(online.Online, "look", lambda self: rows(rank_swav=[next(ranks)])[0])
    changes = ["pretrain.steps=30", "pretrain.save_every=3", "probe={every: 4, stop: true}"]
    with pytest.raises(
        UserError, match=r"step 20: collapsed: swav: .* healthy.safetensors holds the weights from before"
    ):
        pretrain(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "run")
    assert checkpoint.steps_done(tmp_path / "run" / HEALTHY) == 6
    assert checkpoint.steps_done(tmp_path / "run" / "last.safetensors") == 18
    assert not list((tmp_path / "run").glob(".*.part"))
