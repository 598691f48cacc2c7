from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError
from medssl.methods import TERMS, build_method
from medssl.methods.local import at, shared_places
from medssl.methods.method import Bank
from medssl.methods.pairs import rows_of
from medssl.recipe import read_recipe
from medssl.train import pretrain
from medssl.trunks import TRUNKS, build_trunk
from medssl.views import Batch, Crops
from medssl.views.geometry import sample
from medssl.views.masks import spread
from medssl.views.select import build_views

FOLDER = Path(__file__).parent.parent.parent / "pipelines" / "methods"
RECIPES = sorted(set(FOLDER.glob("*.yaml")) - {FOLDER / "scans.yaml"})
SMALL = {
    "resenc": {"widths": ["8", "12"]},
    "vit": {"width": "24", "depth": "2", "heads": "2"},
    "cswin": {"widths": ["12", "24"], "depths": ["1", "1"]},
}
METHODS = {
    "rebuild": {"rebuild": {}},
    "rebuild whitened": {"rebuild": {"whiten": "true"}},
    "contrast": {"contrast": {}},
    "local": {"local": {"points": "16", "apart_mm": "3"}},
    "local across": {"local": {"points": "16", "apart_mm": "3", "across": "true"}},
    "regions": {"regions": {}},
    "regions across": {"regions": {"grid": ["2"], "across": "true"}},
    "together": {"rebuild": {}, "contrast": {"masked": "true", "weight": "0.5"}, "local": {"points": "16"}},
    "teacher": {"contrast": {"teacher": "true"}, "teacher_half_life": "0.1"},
    "moco": {"contrast": {"teacher": "true", "queue": "16"}, "teacher_half_life": "0.1"},
    "mochi": {
        "contrast": {"teacher": "true", "queue": "16", "mixed": "4", "mixed_with_query": "2"},
        "teacher_half_life": "0.1",
    },
    "vicreg": {"vicreg": {}},
    "byol": {"byol": {}, "teacher_half_life": "0.1"},
    "dino": {"dino": {"prototypes": "32"}, "teacher_half_life": "0.1"},
    "dinov2": {"dino": {"prototypes": "32", "koleo": "0.1"}, "ibot": {"prototypes": "32"}, "teacher_half_life": "0.1"},
    "position": {"position": {"near": "0.2", "apart": "0.3", "along": "0"}},
    "order": {"order": {"apart": "0.01"}},
    "order of visits": {"order": {"by": "visit"}},
    "swav": {"swav": {"prototypes": "16", "queue": "32"}},
    "rotation": {"rotation": {}},
    "which": {"which": {}},
    "ssast": {"which": {}, "rebuild": {"weight": "10"}},
    "multitask": {"rebuild": {}, "contrast": {}, "rotation": {}, "weighing": "learned"},
    "swav frozen": {"swav": {"prototypes": "16", "queue": "32", "frozen": "7"}},
}
MASKED = {"rebuild": {"rebuild": {}}, "masked contrast": {"contrast": {"masked": "true"}},
          "which": {"which": {}}, "ibot": {"ibot": {"prototypes": "16"}, "teacher_half_life": "0.1"}}  # fmt: skip
FILLING = [{"name": "resenc"}, {"name": "vit", "hide": "token"}, {"name": "cswin"}]
HIDING = [*FILLING, {"name": "resenc", "hide": "sparse"}, {"name": "vit"}]
SIZES = {"2D": (16, 16), "3D": (16, 8, 16)}


def batch(size, views=2, scans=4):
    """Two altered views of smooth random scans, with the matrices that tell where they lie."""
    rng = np.random.default_rng(0)
    crops, shape = Crops(size=size, turn=10), (*(n + 8 for n in size), 1)[:3]
    images, places = [], []
    for scan in range(scans):
        wave = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
        box = np.sin(wave * rng.uniform(0.2, 0.6, (3, 1, 1, 1)) + scan).sum(0, keepdims=True)
        drawn = [crops.draw(shape, np.eye(4), rng) for _ in range(views)]
        seen = [sample(box, place, crops.grid) for place in drawn]
        images.append(torch.stack([x if len(size) == 3 else x[..., 0] for x in seen]))
        places.append(torch.from_numpy(np.stack(drawn)))
    who, to_mm = torch.arange(scans), torch.stack(places, 1)
    small = torch.stack(images, 1)[:1, ..., : size[0] // 2, : size[1] // 2, *[slice(0, n // 2) for n in size[2:]]]
    return Batch(
        torch.stack(images, 1),
        to_mm,
        who,
        who // 4,
        torch.empty(0),
        small=small,
        where=torch.from_numpy(rng.random((views, scans, 3))),
        to_share=torch.diag(1 / torch.tensor([*shape, 1.0])).double() @ to_mm,
        days=365 * torch.arange(views, dtype=torch.float64)[:, None].expand(views, scans),
    )


def section_of(trunk, size):
    section = dict(SMALL[trunk], name=trunk)
    if trunk == "vit":
        section["patch"] = ["4"] * len(size)
    if trunk == "cswin":
        section["strides"] = [["2"] * len(size)] * 2
    return section


def build(method, trunk, size):
    torch.manual_seed(0)
    section = section_of(trunk, size)
    if trunk == "vit":
        section["hide"] = "token" if "ibot" in METHODS[method] else "drop"
    return build_method(METHODS[method], build_trunk(section, size))


def size_for(name, size):
    """The size at which a method can be asked: quarter turns exchange the first two axes."""
    return (16, 16, 8) if "rotation" in METHODS[name] and len(size) == 3 else size


def test_every_term_in_the_table_is_tested():
    assert {term for method in METHODS.values() for term in method if term in TERMS} == set(TERMS)


def falls(method, seen):
    """Whether 25 steps on one batch lower its loss. What stands still can be reached: teachers, centres and queues only move
    in training.
    """
    method = method.eval()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    history = []
    for step in range(25):
        torch.manual_seed(step % 2)
        loss = sum(method(seen).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return np.mean(history[-4:]) < 0.97 * np.mean(history[:4])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_loss_of_every_recipe_falls_on_one_batch(path, size):
    """Its method section as it ships, on a small trunk of its kind, with as many views and small ones as it draws."""
    recipe = read_recipe(path)
    kind = recipe["trunk"].get("name", "resenc")
    section = {**SMALL[kind], "name": kind} | {key: recipe["trunk"][key] for key in ("hide",) if key in recipe["trunk"]}
    size = (16, 16, 8) if "rotation" in recipe["method"] and len(size) == 3 else size
    if kind == "vit":
        section["patch"] = ["4"] * len(size)
    torch.manual_seed(0)
    method = build_method(recipe["method"], build_trunk(section, size))
    seen = batch(size, views=int(recipe["views"].get("count", 2)))
    assert falls(method, seen if "small" in recipe["views"] else seen._replace(small=torch.empty(0)))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("trunk", sorted(TRUNKS))
@pytest.mark.parametrize("name", sorted(METHODS))
class TestMethod:
    def test_losses_are_finite_and_reach_the_trunk_but_not_the_teacher(self, name, trunk, size):
        size = size_for(name, size)
        method = build(name, trunk, size)
        losses = method(batch(size, max(2, method.views)))
        assert set(losses) == set(method.terms)
        assert all(loss.isfinite() and loss > 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert sum(p.grad.abs().sum() for p in method.trunk.parameters() if p.grad is not None) > 0
        if method.teacher is not None:
            assert all(p.grad is None for p in (*method.teacher.parameters(), *method.averages.parameters()))

    def test_the_loss_falls_on_one_batch(self, name, trunk, size):
        size = size_for(name, size)
        method = build(name, trunk, size)
        assert falls(method, batch(size, max(2, method.views)))

    def test_pictures_have_one_row_a_view(self, name, trunk, size):
        size = size_for(name, size)
        for image in build(name, trunk, size).picture(batch(size, 3)).values():
            assert image.shape == (12, *size)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    ("name", "trunk"), [(n, t) for n in MASKED for t in HIDING if n != "ibot" or t in FILLING], ids=str
)
def test_what_the_student_makes_of_a_masked_view_does_not_know_what_is_hidden(name, trunk, size):
    section = section_of(trunk["name"], size) | trunk
    torch.manual_seed(0)
    method, seen = build_method(MASKED[name], build_trunk(section, size)).eval(), batch(size)
    made = []
    method.trunk.register_forward_hook(lambda _, __, features: made.append([*features.pyramid, features.pooled]))

    def student(x):
        made.clear()
        torch.manual_seed(5)
        method(seen._replace(x=x))
        return list(made[0])

    torch.manual_seed(5)
    hidden = spread(Bank(method, seen).mask, size).unflatten(0, seen.x.shape[:2])
    before = student(seen.x)
    assert len(made) == 1  # nothing else of the student sees the view
    assert all(torch.equal(a, b) for a, b in zip(before, student(torch.where(hidden, -seen.x, seen.x)), strict=True))
    after = student(torch.where(hidden, seen.x, -seen.x))
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("trunk", HIDING, ids=str)
@pytest.mark.parametrize("name", MASKED)
def test_cells_of_another_scan_take_the_place_of_hidden_ones(name, trunk, size):
    """Of what a row hides the student sees nothing; of the other scan it sees nothing but what stands in its place."""
    section = section_of(trunk["name"], size) | trunk
    torch.manual_seed(0)
    masking = {"mask": {"fill": "another", "ratio": "0.5"}}
    method, seen = build_method({**MASKED[name], **masking}, build_trunk(section, size)).eval(), batch(size)
    given = []
    method.trunk.register_forward_hook(lambda _, x, __: given.append(x))

    def student(x):
        given.clear()
        torch.manual_seed(5)
        method(seen._replace(x=x))
        (x,) = given[0]  # and no mask: the trunk is not told what is hidden
        return x

    torch.manual_seed(5)
    hidden = spread(Bank(method, seen).mask, size).unflatten(0, seen.x.shape[:2])
    before = student(seen.x).view_as(seen.x)
    assert torch.equal(torch.where(hidden, 0, before), torch.where(hidden, 0, seen.x))
    for row in range(4):
        mine, others = hidden.clone(), torch.ones(4, dtype=torch.bool)
        mine[:, torch.arange(4) != row] = False
        changed = student(torch.where(mine, -seen.x, seen.x)).view_as(seen.x)
        assert torch.equal(changed[:, row], before[:, row])
        filled = before[:, row][hidden[:, row]]
        own = seen.x[:, row][hidden[:, row]]
        assert not torch.equal(filled, own)
        others[row] = False
        assert sum(torch.equal(filled, seen.x[:, n][hidden[:, row]]) for n in others.nonzero().flatten()) == 1
    if name == "rebuild":  # the target is what was there
        torch.manual_seed(5)
        bank = Bank(method, seen)
        guess = method.terms["rebuild"].head(bank.dense(masked=True))
        loss = (guess - seen.x.flatten(0, 1))[hidden.flatten(0, 1)].square().mean()
        torch.manual_seed(5)
        assert method(seen)["rebuild"].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("trunk", HIDING, ids=str)
def test_what_is_told_of_hidden_cells_is_told_from_the_seen_ones(trunk):
    """A trunk that leaves one learned value in all of them would be asked about their place alone."""
    section = {**SMALL[trunk["name"]], **trunk, **({"patch": ["4", "4"]} if trunk["name"] == "vit" else {})}
    method, seen = build_method(MASKED["ibot"], build_trunk(section, (16, 16))).eval(), batch((16, 16))
    if trunk not in FILLING:
        with pytest.raises(UserError, match=r"trunk\.hide: .* set it to token"):
            method(seen)
        return
    torch.manual_seed(5)
    bank = Bank(method, seen)
    shown = torch.where(spread(bank.mask, (16, 16)).view_as(seen.x), seen.x, -seen.x)
    torch.manual_seed(5)
    first, second = (one.hidden(one.features(masked=True)) for one in (bank, Bank(method, seen._replace(x=shown))))
    assert first.shape == (bank.mask.sum(), method.trunk.widths[-1]) and not torch.allclose(first, second)


def stopped_after(steps):
    """A progress bar that breaks off when so many steps are done."""

    def bar(numbers, *_):
        for number in numbers:
            if number == steps:
                raise KeyboardInterrupt
            yield number

    return bar


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_ten_steps_are_five_and_five(name, balls, visits, tmp_path):
    """Queues, centres, teachers and random numbers are part of what a run remembers."""
    changes, store = ["views.count=3", "pretrain.steps=10", "pretrain.save_every=5"], balls / "store"
    if name == "order of visits":
        changes, store = [*changes, "views.partner=follow_up", "data.modality=OPT"], visits / "store"
    changes += ["views.turn=0", "views.zoom=0", "views.centre=true"] if "regions" in METHODS[name] else []
    changes += ["views.size=[8, 8, 8]"] if "position" in METHODS[name] else []  # so that there are several places
    recipe = read_recipe(balls / "recipe.yaml", changes) | {"method": METHODS[name]}
    whole = pretrain(recipe, store, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, store, tmp_path / "halves", progress=stopped_after(5))
    assert checkpoint.steps_done(tmp_path / "halves" / checkpoint.NAME) == 5
    halves = pretrain(recipe, store, tmp_path / "halves")
    first, second = (checkpoint.read(run / checkpoint.NAME) for run in (whole, halves))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_places_on_different_slices_are_not_the_same_place():
    """A flat view knows its slice: what lies above it in the next one is somewhere else."""
    here = torch.eye(4, dtype=torch.float64)
    above = here.clone()
    above[2, 3] = 3.0
    assert len(shared_places(torch.stack([here, above]), (16, 16), 32)[0]) == 0
    above[2, 3] = 0.4
    assert len(shared_places(torch.stack([here, above]), (16, 16), 32)[0]) == 32


def test_the_trunk_runs_once_for_terms_that_share_a_forward():
    method = build("together", "resenc", (16, 16))
    calls = []
    method.trunk.register_forward_hook(lambda *_: calls.append(1))
    method(batch((16, 16)))
    assert len(calls) == 2  # masked views for rebuild and contrast, whole views for places


@pytest.mark.parametrize("name", ["dino", "swav"])
def test_small_views_are_predicted_from_and_never_predicted(name):
    method, seen = build(name, "resenc", (16, 16)).eval(), batch((16, 16))
    calls = []
    method.trunk.register_forward_hook(lambda _, given, __: calls.append(tuple(given[0].shape)))
    whole = method(seen)[name].item()
    assert sorted(calls) == [(4, 1, 8, 8), (8, 1, 16, 16)]
    alone = method(seen._replace(small=torch.empty(0)))[name].item()
    # Two terms of whole views and, of each scan's one small view, two more: the mean of four.
    other = method(seen._replace(small=seen.small.roll(1, 1)))[name].item()
    assert len({round(value, 5) for value in (whole, alone, other)}) == 3


def test_rebuild_scores_hidden_voxels_only():
    method = build("rebuild", "resenc", (16, 16))
    seen = batch((16, 16))
    torch.manual_seed(5)
    before = method(seen)["rebuild"]
    with torch.no_grad():
        method.terms["rebuild"].head.weight.zero_()
        method.terms["rebuild"].head.bias.zero_()
    torch.manual_seed(5)
    bank = Bank(method, seen)
    hidden = spread(bank.mask, (16, 16))
    torch.manual_seed(5)
    guess_zero = method(seen)["rebuild"]
    assert guess_zero.item() == pytest.approx(bank.x_RCS[hidden].square().mean().item(), rel=1e-5)
    assert before.item() != pytest.approx(guess_zero.item())


def test_the_teacher_moves_half_way_in_its_half_life():
    method = build("teacher", "resenc", (16, 16))
    start = [p.clone() for p in method.teacher.parameters()]
    with torch.no_grad():
        for p in method.trunk.parameters():
            p.add_(1.0)
    for _ in range(10):
        method.after_step(100)  # half life .1 of 100 steps
    for before, after in zip(start, method.teacher.parameters(), strict=True):
        assert torch.allclose(after - before, torch.full_like(before, 0.5), atol=1e-4)


def test_the_same_place_is_the_same_place():
    size = (16, 8, 16)
    seen = batch(size)
    here, there = shared_places(seen.to_mm[:, 1], size, 64)
    assert len(here) > 16
    assert torch.allclose(here @ seen.to_mm[0, 1].T, there @ seen.to_mm[1, 1].T, atol=1e-9)
    first, second = at(seen.x[0, 1], here), at(seen.x[1, 1], there)
    assert (first - second).abs().mean() < 0.1 * first.std()


@pytest.mark.parametrize("bends", [0.0, 2.0], ids=["straight", "bent"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_places_are_found_in_millimetres_under_autocast(size, bends):
    """Half precision is for the network; of 100 mm bfloat16 would keep steps of half a millimetre."""
    seen = batch(size)
    moved = seen.to_mm.clone()
    moved[..., :3, 3] += 100
    bend = bends * torch.rand(2, 4, 3, 6, 6, 6, dtype=torch.float64) if bends else torch.empty(0)
    # As the loop's precision hands them on.
    halved = seen._replace(to_mm=moved.float(), bend=bend.float())
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            pair = bend[:, 1] if bends else torch.empty(2, 0)
            found.append((*shared_places(moved[:, 1], size, 64, pair), rows_of(halved).mm))
    for exact, half in zip(*found, strict=True):
        assert torch.allclose(exact, half, atol=1e-9)
    whole = rows_of(seen._replace(to_mm=moved, bend=bend)).mm
    assert torch.allclose(found[1][2], whole, atol=1e-4)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_half_precision(name, size):
    size = size_for(name, size)
    method, seen = build(name, "resenc", size), batch(size, views=3)
    halved = seen._replace(to_mm=seen.to_mm.float(), to_share=seen.to_share.float(), where=seen.where.float())
    with torch.autocast("cpu", torch.bfloat16):
        losses = method(halved)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_at_reads_voxels_exactly():
    x = torch.randn(2, 5, 6, 7)
    index = torch.tensor([[0, 0, 0, 1], [4, 5, 6, 1], [2, 3, 1, 1]], dtype=torch.float64)
    assert torch.allclose(at(x, index), torch.stack([x[:, 0, 0, 0], x[:, 4, 5, 6], x[:, 2, 3, 1]]), atol=1e-5)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rebuilt": {}}, "no term called 'rebuilt'; did you mean 'rebuild'"),
        ({"rebuild": {}, "maks": {"ratio": "0.5"}}, r"method\.maks: .* did you mean 'mask'"),
        ({"rebuild": {}, "wieghing": "learned"}, r"method\.wieghing: .* did you mean 'weighing'"),
        ({"simclr": {}}, r"method\.simclr: .* did you mean contrast, of which pipelines/methods/simclr\.yaml is made"),
        ({"dinov2": {}}, r"did you mean dino and ibot, of which pipelines/methods/dinov2\.yaml"),
        ({"scans": {}}, "no term called 'scans'; it has: byol"),
        ({"xyz": {}}, r"no term called 'xyz'; it has: byol, contrast, .*, weighing"),
        ({"rebuild": "1"}, r"method\.rebuild: '1' is not a section"),
        ({"rebuild": {}, "mask": "0.5"}, r"method\.mask: '0\.5' is not a section"),
        ({"mask": {"ratio": "0.5"}}, "names no term"),
        ({"rebuild": {"mask": "0.5"}}, r"method\.rebuild\.mask"),
        ({"rebuild": {}, "mask": {"ratio": "1.5"}}, "not between 0 and 1"),
        ({"rebuild": {}, "mask": {"ration": "0.5"}}, "did you mean 'ratio'"),
    ],
)
def test_a_method_that_cannot_be_built_says_why(section, message):
    with pytest.raises(UserError, match=message):
        build_method(section, build_trunk({"widths": ["4", "4"]}, (8, 8)))


@pytest.mark.parametrize("name", [*sorted(METHODS), "masked", "ibot"])
def test_what_a_term_says_of_itself_is_what_it_asks_for(name):
    """A key that no term would notice is refused by it."""
    section = {**METHODS, "masked": MASKED["masked contrast"], "ibot": MASKED["ibot"]}[name]
    trunk = build_trunk({"widths": ["4", "8"]}, (16, 16))
    method = build_method(section, trunk)
    said = {
        "mask": any(term.masked for term in method.terms.values()),
        "teacher": any(term.taught for term in method.terms.values()),
        "small": any(term.small for term in method.terms.values()),
        "decoder": any(term.dense for term in method.terms.values()),
    }
    bank = Bank(method, batch((16, 16), max(2, method.views)))
    for term in method.terms.values():
        term(bank)
    assert set(bank.asked()) == {key for key, yes in said.items() if yes}
    views = {"size": ["16", "16"], "turn": "0", "count": "3", "small": {"size": ["8", "8"]}}
    for key, refused, check in (
        ("mask", r"method\.mask: .* not work on masked views", lambda: build_method({**section, "mask": {}}, trunk)),
        ("teacher", r"teacher_half_life: 0\.5, but .* not ask for a teacher",
         lambda: build_method({**section, "teacher_half_life": "0.5"}, trunk)),
        ("small", r"views\.small: .* not learn from small views", lambda: method.check(build_views(views), 1)),
    ):  # fmt: skip
        with nullcontext() if said[key] else pytest.raises(UserError, match=refused):
            check()


def test_contrast_asks_for_its_second_view_and_for_a_teacher_it_lacks():
    method = build_method({"contrast": {}}, build_trunk({"widths": ["4", "4"]}, (16, 16)))
    with pytest.raises(UserError, match=r"views\.count"):
        method(batch((16, 16), views=1))
    lacking = build_method({"contrast": {"teacher": "true"}}, build_trunk({"widths": ["4", "4"]}, (16, 16)))
    with pytest.raises(UserError, match="teacher_half_life"):
        lacking(batch((16, 16)))
