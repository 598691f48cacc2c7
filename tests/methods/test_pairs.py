"""Relations against plain loops, and what a contrast makes of them."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.errors import UserError
from medssl.methods import build_method
from medssl.methods.pairs import Pairs, Relation, Rows, closure, knn, near_mm, rows_of, same
from medssl.methods.relations import info_nce
from medssl.methods.vicreg import vicreg
from medssl.recipe import make, read_recipe
from medssl.train import pretrain
from medssl.trunks import build_trunk
from medssl.views import Batch, Crops, Steps, Views

RNG = np.random.default_rng(3)


def people(count, seed=0):
    """Rows with facts of few values, some unknown, middles within 40 mm and random features."""
    make = torch.Generator().manual_seed(seed)
    facts = {
        "scan": torch.arange(count) % (count - 3), "patient": torch.randint(4, (count,), generator=make),
        "scanner": torch.randint(-1, 3, (count,), generator=make), "site": torch.randint(-1, 3, (count,), generator=make),
    }  # fmt: skip
    return Rows(
        facts=facts,
        mm=40 * torch.rand(count, 3, generator=make, dtype=torch.float64) - 1000,
        features=torch.randn(count, 6, generator=make),
    )


def slow(kind, argument, a, b, i, j, itself):
    """Whether row i of a and row j of b are related, by one comparison after the other."""
    if kind == "same":
        x, y = int(a.facts[argument][i]), int(b.facts[argument][j])
        return x == y and (x >= 0 or argument == "scanner")
    if kind == "near_mm":
        return sum((float(a.mm[i, n]) - float(b.mm[j, n])) ** 2 for n in range(3)) ** 0.5 < argument

    def cosine(x, y):
        return float(x @ y / x.norm() / y.norm())

    mine = [cosine(a.features[i], y) if not (itself and n == i) else -9 for n, y in enumerate(b.features)]
    theirs = [cosine(x, b.features[j]) if not (itself and n == j) else -9 for n, x in enumerate(a.features)]
    return j in np.argsort(mine)[::-1][:argument] or i in np.argsort(theirs)[::-1][:argument]


@pytest.mark.parametrize(
    ("relation", "kind", "argument"),
    [(same("patient"), "same", "patient"), (same("scanner"), "same", "scanner"), (same("site"), "same", "site"),
     (near_mm(15), "near_mm", 15), (knn(2), "knn", 2)],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("other", [False, True])
def test_each_relation_equals_its_slow_twin(relation, kind, argument, other):
    a = people(11)
    b = people(7, 1) if other else a
    found = relation(a, b)
    twin = [
        [slow(kind, argument, a, b, i, j, not other) for j in range(len(b.mm))] for i in range(len(a.mm))
    ]  # fmt: skip
    assert found.tolist() == twin
    assert found.any() and not found.all()


def test_relations_combine_as_truth_values_do():
    rows = people(10)
    p, q, r = (relation(rows, rows) for relation in (same("patient"), same("scanner"), near_mm(20)))
    combined = same("patient") & ~same("scanner") | near_mm(20)
    assert torch.equal(combined(rows, rows), (p & ~q) | r)
    assert torch.equal((~(same("patient") | same("scanner")))(rows, rows), ~p & ~q)


def reach(pairs, count):
    """Who can be reached from whom, by walking."""
    found = torch.zeros(count, count, dtype=torch.bool)
    for start in range(count):
        seen, now = {start}, [start]
        while now:
            here = now.pop()
            for i, j in pairs:
                for a, b in ((i, j), (j, i)):
                    if a == here and b not in seen:
                        seen.add(b)
                        now.append(b)
        found[start, list(seen)] = True
    return found


@pytest.mark.parametrize("count", [1, 2, 9, 16])
def test_the_closure_of_a_chain_is_a_block(count):
    chain = Relation(lambda a, b: torch.diag(torch.ones(count - 1, dtype=torch.bool), 1))
    rows = people(20)
    rows = Rows(facts={name: values[:count] for name, values in rows.facts.items()})
    assert closure(chain)(rows, rows).all()


@pytest.mark.parametrize("seed", range(4))
def test_closure_equals_walking_within_one_set_and_between_two(seed):
    a, b = people(9, seed), people(6, seed + 10)
    related = near_mm(12) & same("scanner")
    matrix = related(a, a)
    found = closure(related)(a, a)
    assert torch.equal(found, reach(matrix.nonzero().tolist(), 9))
    assert torch.equal(found, found.T) and torch.equal(closure(Relation(lambda *_: found))(a, a), found)
    # Between two sets: the same as within their union.
    union = Rows(facts={n: torch.cat([a.facts[n], b.facts[n]]) for n in a.facts}, mm=torch.cat([a.mm, b.mm]))
    assert torch.equal(closure(related)(a, b), closure(related)(union, union)[:9, 9:])


def test_the_words_of_a_recipe_are_the_relations():
    rows = people(12)
    section = {"positive": [["same scan"], ["same patient", "not same site", "near_mm 30"]], "ignore": [["knn 2"]]}
    pairs = make(Pairs, section, "method.contrast.pairs")
    itself = torch.eye(12, dtype=torch.bool)
    wanted = (same("scan") | same("patient") & ~same("site") & near_mm(30))(rows, rows) & ~itself
    positive, ignore = pairs.between(rows, rows)
    assert torch.equal(positive, wanted)
    assert torch.equal(ignore, (knn(2)(rows, rows) | itself) & ~wanted)
    assert pairs.columns() == ("site",) and pairs.arguments("knn") == ("2",)
    linked, _ = make(Pairs, {**section, "transitive": "true"}, "p").between(rows, rows)
    assert torch.equal(linked, reach(wanted.nonzero().tolist(), 12) & ~itself)


@pytest.mark.parametrize("same_scanner", [False, True])
def test_without_words_a_contrast_compares_scans(same_scanner):
    """Itself, other scans of the patient and, if asked, scans of other scanners are ignored; views of a scan attract."""
    rows = people(14, 5)
    scan, patient, scanner = (rows.facts[name].tolist() for name in ("scan", "patient", "scanner"))
    term = build_method({"contrast": {"same_scanner": str(same_scanner)}}, build_trunk({"widths": ["4", "8"]}, (8, 8)))
    positive, ignore = term.terms["contrast"].pairs.between(rows, rows)
    for i, j in itertools.product(range(14), repeat=2):
        mates = i != j and scan[i] == scan[j]
        assert bool(positive[i, j]) == mates
        unlike = same_scanner and scanner[i] != scanner[j]
        assert bool(ignore[i, j]) == (not mates and (i == j or patient[i] == patient[j] or unlike))


def batch(size):
    views, scans = 2, 5
    to_mm = torch.eye(4, dtype=torch.float64).repeat(views, scans, 1, 1)
    to_mm[:, :, 0, 3] = torch.arange(views * scans).view(views, scans) * 7.0
    return Batch(
        torch.randn(views, scans, 1, *size), to_mm, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1]),
        torch.empty(0), facts={"site": torch.tensor([0, 1, 1, -1, -1])},
    )  # fmt: skip


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8)], ids=["2D", "3D"])
class TestContrast:
    def build(self, size, section):
        torch.manual_seed(0)
        return build_method(
            {"contrast": section} | ({"teacher_half_life": "0.1"} if "teacher" in section else {}),
            build_trunk({"widths": ["4", "8"]}, size),
        )

    def test_rows_know_where_they_are(self, size):
        seen = batch(size)
        rows = rows_of(seen)
        for view, scan in itertools.product(range(2), range(5)):
            row = view * 5 + scan
            middle = torch.tensor([*((n - 1) / 2 for n in (*size, 1)[:3]), 1], dtype=torch.float64)
            assert torch.allclose(rows.mm[row], (seen.to_mm[view, scan] @ middle)[:3])
            assert rows.facts["site"][row] == seen.facts["site"][scan] and rows.facts["scan"][row] == scan

    def test_the_loss_is_that_of_the_matrices(self, size):
        section = {"positive": [["same patient"]], "ignore": [["not same site", "not same scan"]]}
        method, seen = self.build(size, {"pairs": section}).eval(), batch(size)
        z = method.terms["contrast"].project(method.trunk(seen.x.flatten(0, 1)).pooled)
        positive, ignore = Pairs(**{k: tuple(map(tuple, v)) for k, v in section.items()}).between(*[rows_of(seen)] * 2)
        loss = method(seen)["contrast"]
        assert loss.item() == pytest.approx(info_nce(z, positive, ignore, 0.2).item(), rel=1e-5)
        plain = self.build(size, {}).eval()(seen)["contrast"]
        assert abs(loss.item() - plain.item()) > 1e-3

    def test_neighbours_in_feature_space_attract(self, size):
        method = self.build(size, {"pairs": {"positive": [["knn 1"]], "ignore": []}})
        loss = method(batch(size))["contrast"]
        loss.backward()
        assert loss.isfinite() and any(p.grad.abs().sum() > 0 for p in method.trunk.parameters() if p.grad is not None)

    def test_a_queue_remembers_the_facts_it_is_compared_by(self, size):
        pairs = {"positive": [["same scan"]], "ignore": [["same patient"], ["not same site"]]}
        method, seen = self.build(size, {"teacher": "true", "queue": "5", "pairs": pairs}), batch(size)
        method(seen)
        _, facts = method.terms["contrast"].queue.content()
        assert facts.tolist() == torch.stack([seen.patient, seen.scanner, seen.facts["site"]], 1).double().tolist()
        # Scans of no site anybody shares: all of the past is ignored, and what it holds does not matter.
        alone, method = seen._replace(facts={"site": torch.full((5,), -1)}), method.eval()
        before = method(alone)["contrast"]
        method.terms["contrast"].queue.vectors.normal_()
        assert torch.equal(method(alone)["contrast"], before)
        assert not torch.equal(method(seen)["contrast"], before)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"positive": [["same"]]}, r"pairs\.positive: 'same' is no relation"),
        ({"ignore": [["nearmm 3"]]}, r"pairs\.ignore: 'nearmm 3' .* did you mean 'near_mm'"),
        ({"positive": [["near_mm far"]]}, "'far' is no number"),
        ({"positive": [[]]}, "empty alternative"),
        ({"positives": []}, "did you mean 'positive'"),
    ],
)
def test_words_that_mean_nothing(section, message):
    with pytest.raises(UserError, match=message):
        build_method({"contrast": {"pairs": section}}, build_trunk({"widths": ["4", "8"]}, (8, 8)))


def test_a_queue_has_no_places_and_no_features():
    section = {"teacher": "true", "queue": "4", "pairs": {"positive": [["knn 2"]]}}
    with pytest.raises(UserError, match="near_mm and knn"):
        build_method({"contrast": section}, build_trunk({"widths": ["4", "8"]}, (8, 8)))


def test_batches_tell_the_facts_asked_for():
    labels = pd.DataFrame({"volume_id": list("abc"), "name": "cluster", "value": [5.0, 5.0, 7.0]})
    store = type("Store", (), {"labels": labels,
        "shape": lambda *_: (9, 9, 9), "affine": lambda *_: np.eye(4), "read": lambda *_: np.zeros((1, 9, 9, 9)),
    })()  # fmt: skip
    rows = pd.DataFrame({"volume_id": list("abcd"), "modality": "MR", "patient_pid": list("pqrs"), "scanner": "s",
                         "site": ["x", "unknown", "", "y"]})  # fmt: skip
    steps = Steps(store, rows, Views(crops=Crops(size=(4, 4, 4))), batch=4, seed=0, facts=("site", "cluster"))
    seen = steps[0]
    assert {int(p): int(s) for p, s in zip(seen.patient, seen.facts["site"], strict=True)} == {0: 0, 1: -1, 2: -1, 3: 1}
    told = seen.facts["cluster"][seen.patient.argsort()].tolist()
    assert told == [0, 0, 1, -1]
    with pytest.raises(UserError, match=r"sight: .* did you mean 'site'"):
        Steps(store, rows, Views(crops=Crops(size=(4, 4, 4))), batch=4, seed=0, facts=("sight",))


def test_a_recipe_trains_by_what_the_store_tells(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=2", "pretrain.workers=1", "probe.every=1"])
    recipe["method"] = {
        "contrast": {"pairs": {"positive": [["same scan"], ["same race", "same big"]], "transitive": "true"}}
    }
    pretrain(recipe, balls / "store", tmp_path / "run")
    recipe["method"]["contrast"]["pairs"]["positive"] = [["same rase"]]
    with pytest.raises(UserError, match="did you mean 'race'"):
        pretrain(recipe, balls / "store", tmp_path / "other")


def test_neighbours_and_covariances_are_those_of_full_precision_under_autocast():
    """Features that are much alike, as those of a norm by group are: bfloat16 cannot tell who is nearest."""
    torch.manual_seed(0)
    x = torch.randn(1, 32) + 0.1 * torch.randn(64, 32)
    rows = Rows(facts={"scan": torch.arange(64)}, features=x)
    plain, covariance = knn(2)(rows, rows), vicreg(x, x, 0, 0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(knn(2)(rows, rows), plain)
        assert torch.allclose(vicreg(x, x, 0, 0, 1), covariance, rtol=1e-5)
