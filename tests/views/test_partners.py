"""Slabs along an axis, visits of one patient, and eyes of one patient."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.errors import UserError
from medssl.store import open_store
from medssl.views import Crops, Intensity, Steps, Views
from medssl.views.partners import mirrored, partners
from medssl.views.select import build_views

OFF = Intensity(gain=0.0, offset=0.0, gamma=0.0, noise=0.0)


def rngs(seed, count):
    return [np.random.default_rng((seed, view)) for view in range(count)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), along=st.integers(0, 2), apart=st.sampled_from([2.0, 5.5, 50.0]),
    spacing=st.tuples(*[st.floats(0.5, 3.0)] * 3), size=st.sampled_from([(8, 6, 4), (8, 6)]),
)  # fmt: skip
def test_slabs_stand_in_line(seed, along, apart, spacing, size):
    shape, affine = (40, 36, 30), np.diag([*spacing, 1.0])
    crops = Crops(size=size, turn=0, zoom=0, along=along, apart_mm=apart)
    places = crops.draw_views(shape, affine, rngs(seed, 3))
    middles = np.stack([crops.middle(place) for place in places])
    half = (crops.grid[along] - 1) / 2
    room = (shape[along] - 1 - 2 * half) / 2
    gaps, wanted = np.diff(middles[:, along]), min(apart / spacing[along], room)
    slack = 1.0 if crops.grid[along] == 1 else 1e-9  # flat views lie on whole slices
    assert np.abs(gaps - wanted).max() <= slack
    assert np.abs(np.delete(middles - middles[0], along, axis=1)).max() < 1e-9
    assert middles[:, along].min() >= half - 1e-9 and middles[:, along].max() <= shape[along] - 1 - half + 1e-9
    if crops.grid[along] == 1:
        assert np.abs(middles[:, along] - middles[:, along].round()).max() < 1e-9


def test_slabs_lie_anywhere_along_the_axis():
    crops = Crops(size=(8, 8, 4), apart_mm=3.0)
    first = [crops.middle(crops.draw_views((20, 20, 40), np.eye(4), rngs(seed, 3))[0])[2] for seed in range(300)]
    assert min(first) < 3 and max(first) > 28.5  # 31.5 is the last place that leaves room for the other two
    with pytest.raises(UserError, match=r"views\.apart_mm"):
        Crops(size=(8, 8, 4), apart_mm=3.0, parts=4)


ROWS = pd.DataFrame({
    "volume_id": list("abcdefg"), "modality": ["OPT"] * 6 + ["MR"], "role": "", "scanner": "s",
    "patient_pid": list("pppqqrp"), "study_pid": ["1", "1", "2", "3", "3", "4", "9"],
    "laterality": ["R", "L", "R", "L", "unknown", "R", "R"],
})  # fmt: skip


def test_partners_are_other_looks_at_the_same_patient():
    assert [mates.tolist() for mates in partners(ROWS, "eye")] == [[1], [0], [], [], [], [], []]
    assert [mates.tolist() for mates in partners(ROWS, "visit")] == [[2], [], [0], [], [], [], []]
    assert not any(map(len, partners(ROWS, "none")))
    with pytest.raises(UserError, match=r"views\.partner: eye, but no patient has two eyes"):
        partners(ROWS[3:], "eye")


DATED = pd.DataFrame({
    "patient_pid": "p", "modality": "OPT", "study_pid": ["", "", "", "", "1", "1", "2", "3"],
    "days_since_first": [0, 0, 365, np.nan, 365, np.nan, 365, np.nan], "laterality": list("RLRRRLLL"),
})  # fmt: skip


def test_visits_are_told_by_study_else_by_day_and_eyes_by_day_else_by_study():
    visits = [mates.tolist() for mates in partners(DATED, "visit")]
    assert visits == [[2, 4], [6], [0], [], [0], [6, 7], [1, 5, 7], [5, 6]]
    eyes = [mates.tolist() for mates in partners(DATED, "eye")]
    # 4 and 6 are of two studies on one day; 4 and 7 of two studies, one without a day; of 3 nothing is known.
    assert eyes == [[1, 5, 7], [0, 3], [5, 6, 7], [1, 5, 6, 7], [5, 6], [0, 2, 3, 4], [2, 3, 4], [0, 2, 3]]


def test_volumes_of_which_neither_study_nor_day_is_known_are_of_one_visit():
    untold = DATED.assign(study_pid="", days_since_first=np.nan)
    with pytest.raises(UserError, match=r"two visits, told by study or by day \(study_date in the data card\)"):
        partners(untold, "visit")
    eyes = [mates.tolist() for mates in partners(untold, "eye")]
    assert eyes == [[1, 5, 6, 7] if side == "R" else [0, 2, 3, 4] for side in untold["laterality"]]


def test_eyes_seen_thrice_have_two_other_visits_and_one_other_eye(visits):
    rows = open_store(visits / "store").rows()
    assert set(rows["study_pid"]) == {""} and set(rows["days_since_first"]) == {0, 365, 730}
    told = list(zip(rows["patient_pid"], rows["laterality"], rows["days_since_first"], strict=True))
    for (who, side, day), others, eye in zip(told, partners(rows, "visit"), partners(rows, "eye"), strict=True):
        assert sorted(told[n] for n in others) == [(who, side, when) for when in (0, 365, 730) if when != day]
        assert [told[n] for n in eye] == [(who, {"L": "R", "R": "L"}[side], day)]


def test_partners_are_of_one_scanner_as_a_batch_tells_but_one():
    assert [len(mates) for mates in partners(ROWS.assign(scanner=list("ssttttt")), "eye")] == [1, 1, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match="on one scanner"):
        partners(ROWS.assign(scanner=list("sstttts")), "visit")


def other_visit(a, b, first):
    """Whether two rows are of two visits, by the first of two facts that is known of both; None where neither is."""
    facts = {
        "study": (a.study_pid, b.study_pid) if a.study_pid and b.study_pid else None,
        "day": (a.days_since_first, b.days_since_first)
        if not (math.isnan(a.days_since_first) or math.isnan(b.days_since_first))
        else None,
    }
    known = [facts[name] for name in (first, *facts) if facts[name]]
    return known[0][0] != known[0][1] if known else None


def slow_partners(rows, kind):
    found = []
    for _, a in rows.iterrows():
        found.append([
            n for n, (_, b) in enumerate(rows.iterrows())
            if (a.patient_pid, a.modality) == (b.patient_pid, b.modality)
            and ({a.laterality, b.laterality} == {"L", "R"} and not other_visit(a, b, "day") if kind == "eye"
                 else a.laterality == b.laterality and other_visit(a, b, "study"))
        ])  # fmt: skip
    return found


@pytest.mark.parametrize("kind", ["eye", "visit"])
def test_partners_equal_their_slow_twin(kind, rng):
    rows = pd.DataFrame({
        "patient_pid": rng.choice(list("pqr"), 60), "modality": rng.choice(["OPT", "MR"], 60), "role": "",
        "study_pid": rng.choice(["", "1", "2", "3"], 60), "laterality": rng.choice(["L", "R", "unknown"], 60),
        "days_since_first": rng.choice([0, 365, np.nan], 60),
    })  # fmt: skip
    assert [mates.tolist() for mates in partners(rows, kind)] == slow_partners(rows, kind)


def store():
    """Volumes of a constant each, but for a mark on the patient's left: where world x is negative."""

    def read(volume_id, *_):
        return np.full((1, 20, 20, 20), float(ord(volume_id)), dtype=np.float32)

    return SimpleNamespace(shape=lambda _: (20, 20, 20), affine=lambda _: np.eye(4), read=read)


def test_every_second_view_is_of_the_partner():
    views = build_views({"size": ["8"] * 3, "count": "4", "partner": "visit", "intensity": {},
                         "small": {"size": ["4"] * 3, "count": "4"}})  # fmt: skip
    assert build_views({"size": ["8"] * 3, "partner": "visit"}, count=1).partner == "none"
    law = Views(**{**views.__dict__, "intensity": OFF})
    steps = Steps(store(), ROWS, law, batch=7, seed=0)
    batch, plain = steps[0], Steps(store(), ROWS, Views(**{**law.__dict__, "partner": "none"}), batch=7, seed=0)[0]
    mate = {"a": "c", "c": "a"}
    for row in range(7):
        own = chr(round(batch.x[0, row].mean().item()))
        told = [chr(round(value)) for value in batch.x[:, row].flatten(1).mean(1).tolist()]
        small = [chr(round(value)) for value in batch.small[:, row].flatten(1).mean(1).tolist()]
        assert told == small == [own, mate.get(own, own)] * 2
        if own not in mate:  # a scan without a partner is drawn as ever
            assert torch.equal(batch.x[:, row], plain.x[:, row]) and torch.equal(
                batch.to_mm[:, row], plain.to_mm[:, row]
            )
    assert torch.equal(batch.x[0], plain.x[0])


@pytest.mark.parametrize("size", [["6", "6"], ["6"] * 3], ids=["2D", "3D"])
def test_a_follow_up_is_the_same_place_on_another_day(visits, size):
    """What is altered is not altered alike: noise and gain are the scanner's of that day."""
    opened = open_store(visits / "store")
    rows = opened.rows()
    law = build_views({"size": size, "count": "4", "turn": "20", "zoom": "0.2", "bend_mm": "0.1", "partner": "follow_up",
                       "small": {"size": ["4"] * len(size), "count": "4"}})  # fmt: skip
    noisy = Views(**{**law.__dict__, "intensity": Intensity(gain=0, offset=0, gamma=0, noise=0.5)})
    day = dict(zip(rows["volume_id"], rows["days_since_first"], strict=True))
    steps = Steps(opened, rows, noisy, batch=8, seed=0)
    for step in range(3):
        seen, numbers = steps[step], steps._rows(step)
        assert torch.equal(seen.days[0], torch.tensor([day[steps.ids[row]] for row in numbers]))
        assert torch.equal(seen.days[::2], seen.days[:1].expand(2, -1)) and (seen.days[0] != seen.days[1]).all()
        for name in ("to_share", "to_mm", "where", "bend"):
            one = getattr(seen, name)
            assert torch.equal(one[::2], one[1::2]) and not torch.equal(one[0], one[2])
    off = Steps(opened, rows, Views(**{**law.__dict__, "intensity": OFF}), batch=8, seed=0)[0]
    own, again = (Steps(opened, rows, noisy, batch=8, seed=0)[0].x - off.x)[:2]
    assert own.std() > 0.01 and abs(torch.corrcoef(torch.stack([own.flatten(), again.flatten()]))[0, 1]) < 0.2


def test_follow_ups_are_of_two_known_days():
    with pytest.raises(UserError, match=r"views\.partner: follow_up, but no patient has visits on two known days"):
        partners(ROWS, "follow_up")
    found = [mates.tolist() for mates in partners(DATED, "follow_up")]
    assert found == [[2, 4], [6], [0], [], [0], [], [1], []]


def test_the_other_eye_is_mirrored_and_knows_it():
    shape = (20, 24, 16)
    affine = np.array([[0.0, -1.2, 0, 9], [0, 0, 1.5, 0], [0.5, 0, 0, 0], [0, 0, 0, 1]])  # left to right runs along J
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    world = np.moveaxis(index @ affine[:3].T, -1, 0).astype(np.float32)
    eyes = SimpleNamespace(shape=lambda _: shape, affine=lambda _: affine.copy(), read=lambda *_: world)
    crops = Crops(size=(8, 10, 6), turn=0, zoom=0)
    batch = Steps(eyes, ROWS, Views(crops=crops, count=2, intensity=OFF, partner="eye"), batch=7, seed=0)[0]
    places = torch.from_numpy(
        np.stack(np.meshgrid(*map(np.arange, crops.grid), indexing="ij"), -1).reshape(-1, 3)
    ).double()
    places, seen = torch.cat([places, torch.ones(len(places), 1)], 1), []
    for row in range(7):
        for view in range(2):
            told = (places @ batch.to_mm[view, row].T)[:, :3].float()
            assert torch.allclose(batch.x[view, row].flatten(1).T, told, atol=1e-3)
        slope = [batch.x[view, row, 0].diff(dim=1).mean().item() for view in range(2)]
        assert slope[0] == pytest.approx(-1.2, abs=1e-3)
        seen.append(slope[1] > 0)
    assert sum(seen) == 2  # the two eyes whose other one was seen at that visit
    place = crops.draw(shape, affine, np.random.default_rng(0))
    assert np.allclose(crops.middle(mirrored(place, affine, crops.grid)), crops.middle(place))
