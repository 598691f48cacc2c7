"""Known values of each learner's parts, what it sees and does not see, and runs that resume to the bit."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from medssl import checkpoint
from medssl.adapt import finetune, plan, set_aside
from medssl.errors import UserError
from medssl.learners import LEARNERS, Mixed, Supervised
from medssl.learners.co_teaching import CoTeaching
from medssl.learners.mean_teacher import MeanTeacher, rising
from medssl.learners.pseudo_label import PseudoLabel
from medssl.learners.pseudo_supervisor import (
    PseudoSupervisor,
    discounted,
    log_probability,
    reward,
    standardised,
)
from medssl.predict import load_model, predict
from medssl.probe.features import read_trunk
from medssl.recipe import read_recipe
from medssl.runs import read_run
from medssl.store import open_store
from medssl.train import Training, _groups, part_of
from medssl.views.history import NOTHING
from medssl.weights.folder import weights_of

EPSILON = 1e-6


class Dot(nn.Module):
    """A head and trunk in one: the logit of a scan is its first number times a weight, plus another."""

    target = "x"

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, features, size):
        return self.line(features)[:, 0]

    def loss(self, logits, target):
        return nn.functional.binary_cross_entropy_with_logits(logits, target)


def model(weight=1.0, bias=0.0):
    made = Supervised(nn.Identity(), Dot())
    made.head.line.weight.data.fill_(weight)
    made.head.line.bias.data.fill_(bias)
    return made


def batch(values, target=None, patient=None):
    x = torch.tensor(values).float()
    x = x.view(1, -1, 1) if x.ndim == 1 else x[..., None]
    return SimpleNamespace(
        x=x,
        told=NOTHING,
        target=torch.tensor(target or [0.0] * x.shape[1]),
        patient=torch.tensor(patient or range(x.shape[1])),
    )


class TestPseudoSupervisor:
    def test_the_reward_has_its_known_values(self):
        assert reward(0.7, 0.6, 1.0) == pytest.approx(0.1051709, abs=1e-7)
        assert reward(0.7, 0.8, 1.0) == 0

    def test_the_discount_begins_anew_where_there_is_no_reward(self):
        found = discounted(torch.tensor([0.1, 0, 0.2, 0.05, 0, 0.3]), 0.9)
        assert torch.allclose(found, torch.tensor([0.1, 0, 0.245, 0.05, 0, 0.3]))
        known = [-0.135421, -0.990711, 1.104750, -0.563066, -0.990711, 1.575160]
        assert torch.allclose(standardised(found), torch.tensor(known), atol=EPSILON)
        assert not standardised(torch.full((4,), 0.3)).any()

    def test_each_scan_is_credited_with_its_own_action(self):
        """p = .9, .2, .6 and actions 1, 0, 0: the slopes that are meant, two of which the public code has the wrong way."""
        p, action = torch.tensor([0.9, 0.2, 0.6], requires_grad=True), torch.tensor([1.0, 0, 0])
        found = log_probability(torch.logit(p), action)
        assert found.shape == (3,)
        (-found.mean()).backward()
        assert torch.allclose(p.grad, torch.tensor([-0.370370, 0.416667, 0.833333]), atol=1e-4)
        with pytest.raises(ValueError, match="not of the same scans"):
            log_probability(torch.zeros(3, 1), action)

    def learner(self, window=2, **more):
        return PseudoSupervisor(model(0.5), model(2.0), shape=(2, 1), window=window, **more)

    def step(self, learner, mixed, optimizer):
        losses = learner(mixed)
        optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        optimizer.step()
        learner.after_step(100)
        return losses

    def test_turns_rewards_and_the_policy_are_those_of_the_slow_twin(self):
        torch.manual_seed(0)
        learner, twin = self.learner(), self.learner()
        mixed = Mixed(batch([1.0, -1.0], [1.0, 0.0]), batch([2.0, -3.0]), None, batch([1.5, -0.5], [1.0, 0.0]))
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
        drawn, told, known = [], [], []
        for number in range(6):
            torch.manual_seed(number)
            losses = self.step(learner, mixed, optimizer)
            told.append(sorted(name for name, loss in losses.items() if loss.requires_grad))
            known.append(int(learner.known))
        assert told == [["task"], ["proposed"], ["task"], ["proposed"], ["policy", "task"], ["proposed"]]
        assert sorted(losses) == ["policy", "proposed", "task"]  # in every step, those without a turn as 0
        assert known == [0, 1, 1, 2, 0, 1]

        f, policy = twin.model if hasattr(twin, "model") else twin.whole[0], twin.policy
        mine = torch.optim.SGD(f.parameters(), lr=0.5)
        theirs = torch.optim.SGD(policy.parameters(), lr=0.5)
        rewards = []

        def learn(x, y):
            mine.zero_grad()
            f.head.loss(f.answer(x), y).backward()
            mine.step()

        def judged():
            with torch.no_grad():
                return f.head.loss(f.answer(mixed.judged.x[0]), mixed.judged.target).item()

        for number in range(6):
            torch.manual_seed(number)
            if number == 4:
                run, worth = 0.0, []
                for one in reversed(rewards):
                    run = 0.0 if one == 0 else 0.9 * run + one
                    worth.insert(0, run)
                worth = (np.array(worth) - np.mean(worth)) / (np.std(worth) or 1)
                loss = 0
                for action, one in zip(drawn, worth, strict=True):
                    p = torch.sigmoid(policy.answer(mixed.unlabelled.x[0]))
                    likelihood = torch.where(action == 1, p, 1 - p).log()
                    loss = loss - likelihood.mean() * float(one)
                theirs.zero_grad()
                loss.backward()
                theirs.step()
            if number % 2 == 0:
                learn(mixed.labelled.x[0], mixed.labelled.target)
                continue
            with torch.no_grad():
                action = torch.bernoulli(torch.sigmoid(policy.answer(mixed.unlabelled.x[0])))
            drawn.append(action)
            before = judged()
            learn(mixed.unlabelled.x[0], action)
            rewards.append(max(np.exp(before - judged()) - 1, 0))
        for ours, slow in ((learner.whole[0], f), (learner.policy, policy)):
            for a, b in zip(ours.parameters(), slow.parameters(), strict=True):
                assert torch.allclose(a, b, atol=1e-5)

    def test_a_look_at_those_set_aside_changes_nothing(self):
        learner = self.learner()
        learner.train()
        learner.judged(Mixed(batch([1.0, 2]), judged=batch([1.0, -1.0], [1.0, 0.0])))
        assert all(part.training for part in learner.modules())
        assert all(parameter.grad is None for parameter in learner.parameters())

    def test_a_step_that_moves_nothing_has_no_reward_in_half_precision(self, balls):
        recipe = read_recipe(balls / "recipe.yaml", [*FEW, WAYS["pseudo_supervisor"]])
        planned = plan(recipe, open_store(balls / "store"))
        learner, mixed = planned.model.train(), planned.batches[0]
        learner.done += 1
        with torch.autocast("cpu", torch.bfloat16):
            learner(mixed)
        learner.after_step(8)
        assert learner.rewards[0] == 0 and int(learner.known) == 1


@pytest.mark.parametrize("positives", [4, 8, 20, 36])
def test_of_each_class_the_same_share_is_set_aside(positives):
    label = np.repeat((np.arange(40) < positives).astype(float), 2)
    rows = pd.DataFrame({"patient_pid": np.repeat([f"p{n}" for n in range(40)], 2), "x": label})
    aside = set_aside(rows, "x", 0.5, seed=3)
    assert rows["patient_pid"][aside].nunique() == 20
    assert rows["x"][aside].sum() == positives and rows["x"][~aside].sum() == positives


class TestCoTeaching:
    def learner(self, **more):
        return CoTeaching(model(1.0), model(-1.0), steps=10, shape=(4, 1), patients=list("abcd"), **more)

    def test_each_shows_the_other_what_it_finds_easy(self):
        """The networks answer the opposite of each other, so what one finds easy the other finds hard."""
        learner = self.learner(wrong=0.5, wait=0, rise=0)
        values, target = [3.0, 2.0, -1.0, -4.0], [1.0, 1.0, 1.0, 1.0]
        losses = learner(batch(values, target))
        mine = nn.functional.softplus(-torch.tensor(values))
        theirs = nn.functional.softplus(torch.tensor(values))
        assert losses["task"].item() == pytest.approx(mine[[2, 3]].mean().item())
        assert losses["other"].item() == pytest.approx(theirs[[0, 1]].mean().item())
        assert learner.shown.tolist() == [1, 1, 1, 1] and learner.left_out.tolist() == [1, 1, 0, 0]

    def test_more_are_left_out_as_the_run_goes_on_and_never_all(self):
        learner = self.learner(wrong=0.5, wait=0, rise=0.5)
        counts = []
        for _ in range(8):
            counts.append(learner.too_many(8))
            learner.after_step(10)
        assert counts == [0, 0, 1, 2, 3, 4, 4, 4]
        assert self.learner(wrong=1.0, wait=0, rise=0).too_many(4) == 3
        assert self.learner(wrong=0.0).too_many(4) == 0
        patient = self.learner(wrong=0.5, wait=0.4, rise=0.2)
        counts = []
        for _ in range(8):
            counts.append(patient.too_many(8))
            patient.after_step(10)
        assert counts == [0, 0, 0, 0, 0, 2, 4, 4]
        with pytest.raises(
            UserError, match=r"learn\.wrong: 0\.2 of a batch of 4 is no scan; raise finetune\.batch to 5"
        ):
            self.learner(wrong=0.2)


def test_the_agreement_is_with_the_average_and_rises():
    learner = MeanTeacher(model(1.0), steps=10, weight=2.0, half_life=0.1, rise=0.0)
    learner.teacher.twin.head.line.weight.data.fill_(3.0)
    unlabelled = batch([[1.0, -2.0], [0.5, 1.0]])
    losses = learner(Mixed(batch([1.0], [1.0]), unlabelled))
    mine, told = torch.sigmoid(torch.tensor([1.0, -2.0])), torch.sigmoid(3 * torch.tensor([0.5, 1.0]))
    assert losses["agreement"].item() == pytest.approx(2 * (mine - told).square().mean().item())
    losses["agreement"].backward()
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())
    learner.after_step(10)  # a tenth of the run is the half-life: half of the way
    assert learner.teacher.twin.head.line.weight.item() == pytest.approx(2.0)
    assert rising(0, 100) == pytest.approx(np.exp(-5)) and rising(100, 100) == 1 and rising(7, 0) == 1


@pytest.mark.parametrize("strong", [False, True])
def test_only_what_is_sure_is_learned(strong):
    learner = PseudoLabel(model(1.0), steps=10, sure=0.9, weight=1.0, rise=0.0, strong=strong)
    values = torch.tensor([5.0, 0.1, -6.0])
    plain = batch([5.0, -5.0, 0.0]) if strong else None
    loss = learner(Mixed(batch([1.0], [1.0]), batch(values.tolist()), plain))["pseudo"].item()
    each = nn.functional.softplus(torch.tensor([-5.0, 0.1, -6.0]))
    wanted = each[0] + each[1] if strong else each[0] + each[2]
    assert loss == pytest.approx(wanted.item() / 3, rel=1e-4)


FEW = ["data.labelled=8", "finetune={steps: 8, batch: 2, lr: 1e-3, precision: 32-true, save_every: 3, log_every: 1}"]
WAYS = {
    "mean_teacher": "learn={name: mean_teacher}",
    "pseudo_label": "learn={name: pseudo_label, sure: 0.5}",
    "fixmatch": "learn={name: pseudo_label, strong: true, sure: 0.5}",
    "pseudo_supervisor": "learn={name: pseudo_supervisor, window: 2}",
    "co_teaching": "learn={name: co_teaching, wrong: 0.5, wait: 0, rise: 0.1}",
    "reweighed": "learn={name: reweighed, by: sex}",
}


def test_every_learner_of_the_table_is_run():
    assert {way.partition("name: ")[2].strip("}").split(",")[0] for way in WAYS.values()} == set(LEARNERS)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_run_resumes_to_the_bit_and_answers(balls, tmp_path, way, precision):
    recipe = read_recipe(balls / "recipe.yaml", [*FEW, f"finetune.precision={precision}", WAYS[way]])
    whole = finetune(recipe, balls / "store", tmp_path / "whole")

    def dies(steps, *_):
        for number in steps:
            if number == 7:
                raise KeyboardInterrupt
            yield number

    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, balls / "store", tmp_path / "broken", progress=dies)
    broken = finetune(recipe, balls / "store", tmp_path / "broken")
    once, again = (checkpoint.read(run / checkpoint.NAME) for run in (whole, broken))
    assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)
    table = predict(whole, balls / "store", tmp_path / "p.csv")
    assert table["score"].between(0, 1).all() and table["score"].nunique() > 2
    answering = load_model(whole, read_run(whole)).head.last[1].weight
    prefix = "model.teacher.twin." if way == "mean_teacher" else "model."
    name, value = next(iter(load_model(whole, read_run(whole)).trunk.named_parameters()))
    assert torch.equal(value, weights_of(whole).tensors[name]) and torch.equal(
        value, dict(read_trunk(whole).named_parameters())[name]
    )
    with pytest.raises(UserError, match="leave --of out"):
        weights_of(whole, "teacher")
    assert torch.equal(answering, once[f"{prefix}head.last.1.weight"])
    if way == "co_teaching":
        told = pd.read_csv(whole / "left_out.csv")
        assert len(told) == 8 and told["shown"].sum() == 16 and 0 < told["left_out"].sum() < 16


@pytest.mark.parametrize("way", sorted(WAYS))
def test_nobody_is_in_two_sets(balls, way):
    store = open_store(balls / "store")
    planned = plan(read_recipe(balls / "recipe.yaml", [*FEW, WAYS[way]]), store)
    if way in ("co_teaching", "reweighed"):
        assert planned.facts["patients"] == 8
        return
    train = store.volumes[store.volumes["split"] == "train"].set_index("volume_id")["patient_pid"]
    sets = {"labelled": planned.batches.labelled, **planned.batches.others}
    people = {name: set(train[steps.ids]) for name, steps in sets.items()}
    people.pop("plain", None)
    assert sum(map(len, people.values())) == len(set.union(*people.values())) == train.nunique()
    assert len(people["labelled"]) + len(people.get("judged", ())) == 8
    assert all(len(steps.labels if steps.labels is not None else ()) in (0, len(steps.ids)) for steps in sets.values())
    assert sets["unlabelled"].labels is None
    mixed = planned.batches[3]
    if mixed.plain is not None:
        assert torch.equal(mixed.plain.patient, mixed.unlabelled.patient)
        assert not torch.equal(mixed.plain.x, mixed.unlabelled.x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["learn={name: oracle}"], r"learn\.name: no learner called 'oracle'; there are: supervised, mean_teacher"),
        (["learn={name: mean_teacher}"], r"all \d+ training patients are labelled; set data\.labelled to fewer"),
        (["data.labelled=8", "learn={name: mean_teacher, weight: -1}"], r"learn\.weight: -1\.0 must be at least 0"),
        (["data.labelled=8", "learn={name: pseudo_supervisor, aside: 0}"], r"learn\.aside: 0 of 8 labelled patients"),
        ([*FEW, WAYS["pseudo_supervisor"], "finetune.accumulate=2"], r"finetune\.accumulate: 2, but"),
        (
            [*FEW, WAYS["mean_teacher"], "finetune.strategy=fsdp"],
            r"finetune\.strategy: fsdp, but learn\.name mean_teacher",
        ),
        (["adapt.name=low_rank", "finetune.recompute=true"], r"finetune\.recompute: true, but"),
        (["data.labelled=8", "learn={name: mean_teacher}", "adapt.name=low_rank"], r"adapt\.name: low_rank, but"),
        (
            ["data.labelled=8", "learn={name: mean_teacher}", "head={name: segment, structures: [ball]}"],
            r"learn\.name: mean_teacher teaches yes or no",
        ),
    ],
)
def test_what_cannot_be_learned_is_said(balls, changes, message):
    with pytest.raises(UserError, match=message):
        plan(read_recipe(balls / "recipe.yaml", changes), open_store(balls / "store"))


def test_rates_and_what_is_frozen_are_those_of_every_network(balls):
    names = [
        "trunk.a",
        "other.trunk.a",
        "policy.trunk.a",
        "head.decoder.b",
        "decoder.b",
        "other.head.last",
        "added.up.x",
    ]
    assert [part_of(name) for name in names] == ["trunk", "trunk", "trunk", "decoder", "decoder", "head", "added"]
    changes = [*FEW, WAYS["co_teaching"], "finetune.trunk_lr=0.1", "finetune.frozen=[decoder]"]
    planned = plan(read_recipe(balls / "recipe.yaml", changes), open_store(balls / "store"))
    scale = {id(p): group["scale"] for group in _groups(planned.model, planned.settings) for p in group["params"]}
    for name, parameter in planned.model.named_parameters():
        assert scale[id(parameter)] == (0.1 if "trunk." in name else 1.0)
    frozen = read_recipe(balls / "recipe.yaml", ["finetune.frozen=[trunk]"])
    head = sum(p.numel() for p in plan(frozen, open_store(balls / "store")).model.head.parameters())
    assert plan(frozen, open_store(balls / "store")).facts["moving"] == head
    assert isinstance(planned.settings, Training)
