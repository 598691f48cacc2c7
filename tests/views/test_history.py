"""Which visits make a series, in which order, and that nobody looks into the future or across to the other eye."""

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.errors import UserError
from medssl.store import open_store
from medssl.views import Steps
from medssl.views.history import NOTHING, Beside, Series, _gathered, numbers_of, with_history
from medssl.views.select import build_views, select, select_history

NAN = float("nan")


def table(*visits):
    """Rows of volumes: name, day, and what else differs from the right eye of one patient."""
    rows = [{"patient_pid": "p", "modality": "OPT", "role": "", "laterality": "R", "volume_id": name,
             "days_since_first": day, **more} for name, day, more in visits]  # fmt: skip
    return pd.DataFrame(rows)


EYE = table(("b", 200.0, {}), ("a", 0.0, {}), ("c", 900.0, {}), ("b2", 200.0, {}), ("other", 100.0, {"laterality": "L"}),
            ("else", 150.0, {"patient_pid": "q"}), ("ct", 150.0, {"modality": "CT"}))  # fmt: skip


def found(ends, visits=2, within=0.0, rows=EYE, every=EYE):
    kept, volumes = _gathered(rows, every, Series(visits, ends, within))
    return dict(zip(kept["volume_id"], volumes, strict=True))


def test_the_first_visits_of_an_eye_are_one_series():
    assert found("first") == {"b": ("b", "a"), "other": ("other",), "else": ("else",), "ct": ("ct",)}
    assert found("first", visits=1)["a"] == ("a",) and "b" not in found("first", visits=1)
    assert found("first", visits=3)["c"] == ("c", "b", "a")
    assert found("first", visits=3, within=300.0)["b"] == ("b", "a")


def test_each_visit_ends_a_series_of_those_before_it():
    told = found("each")
    assert told["c"] == ("c", "b") and told["b"] == ("b", "a") and told["b2"] == ("b2", "a") and told["a"] == ("a",)
    assert found("each", visits=3)["c"] == ("c", "b", "a")
    assert found("each", within=100.0)["c"] == ("c",)
    assert found("each", visits=1) == {name: (name,) for name in EYE["volume_id"]}


@pytest.mark.parametrize("ends", ["first", "each"])
def test_no_series_looks_beyond_its_last_visit(ends):
    day = EYE.set_index("volume_id")["days_since_first"]
    for last, volumes in found(ends, visits=3).items():
        assert volumes[0] == last and all(day[one] < day[last] for one in volumes[1:])


def test_visits_without_a_day():
    rows = table(("a", NAN, {}), ("b", 3.0, {}), ("alone", NAN, {"laterality": "L"}))
    assert found("each", rows=rows, every=rows) == {"a": ("a",), "b": ("b",), "alone": ("alone",)}
    with pytest.raises(UserError, match=r"head\.ends: first, but 2 volumes of one eye or side have not all a day"):
        found("first", rows=rows, every=rows)
    assert found("first", rows=rows[2:], every=rows[2:]) == {"alone": ("alone",)}


def test_labels_that_end_no_series():
    with pytest.raises(UserError, match=r"head\.ends: first, but of 1 volumes with a label none is the last"):
        found("first", rows=EYE[1:2])


@pytest.fixture
def store(visits):
    return open_store(visits / "store")


class TestInAStore:
    def steps(self, store, alter=True, **law):
        rows = select(store, {}, split="train", target="grows")
        series = Series(**{"visits": 2, "ends": "each", "within_days": 0.0, **law})
        rows, history = select_history(store, {}, rows, Beside(("age_years", "pressure"), series))
        views = build_views({"size": ["12", "12", "12"]}, count=1, alter=alter)
        return rows, Steps(store, rows, views, batch=6, seed=0, target="grows", history=history)

    def test_both_eyes_of_a_patient_are_on_one_side_and_no_series_has_both(self, store):
        rows = store.volumes
        assert rows.groupby("patient_pid")["split"].nunique().max() == 1
        assert rows.groupby("patient_pid")["laterality"].nunique().min() == 2
        side = rows.set_index("volume_id")[["patient_pid", "laterality"]].apply(tuple, axis=1)
        _, steps = self.steps(store, visits=3)
        assert all(len({side[one] for one in volumes}) == 1 for volumes in steps.history.volumes)

    def test_a_batch_shows_the_visits_in_their_order_and_tells_their_days(self, store):
        rows, steps = self.steps(store, alter=False, visits=3)
        day = store.volumes.set_index("volume_id")["days_since_first"]
        batch = steps[1]
        assert batch.x.shape == (1, 6, 3, 1, 12, 12, 12) and batch.told.covariates.shape == (6, 2)
        told = [tuple(batch.told.covariates[n].tolist()) for n in range(6)]
        for scan in range(6):
            mine = [n for n in range(len(rows)) if torch.equal(steps.view_of(n), batch.x[0, scan])]
            assert len(mine) == 1
            volumes = steps.history.volumes[mine[0]]
            assert rows["age_years"][mine[0]] == told[scan][0]
            known = batch.told.days[scan].isfinite()
            assert known.sum() == len(volumes) and not batch.x[0, scan][~known].any()
            for place, name in zip(np.flatnonzero(known), reversed(volumes), strict=True):
                assert batch.told.days[scan, place] == day[volumes[0]] - day[name]
                assert np.array_equal(batch.x[0, scan, place].numpy(), store.read(name).astype(np.float32))

    def test_visits_are_cut_at_one_place_and_each_has_its_own_noise(self, store):
        _, steps = self.steps(store)
        row = next(n for n, volumes in enumerate(steps.history.volumes) if len(volumes) == 2)
        last, before = steps.history.volumes[row]
        steps.history.volumes[row] = (last, last)
        same = steps.view_of(row)
        assert not torch.equal(same[0], same[1])
        quiet = {
            "size": ["12", "12", "12"],
            "turn": "20",
            "intensity": dict.fromkeys(("gain", "offset", "gamma", "noise"), "0"),
        }
        steps.views = build_views(quiet, count=1)
        assert torch.equal(*steps.view_of(row))
        steps.history.volumes[row] = (last, before)
        assert not torch.equal(*steps.view_of(row))

    def test_numbers_are_found_among_columns_and_labels(self, store):
        rows = store.rows()
        assert np.array_equal(numbers_of(store, rows, "age_years"), rows["age_years"].to_numpy(np.float32))
        pressure = numbers_of(store, rows, "pressure")
        assert np.isnan(pressure).sum() == len(rows) / 3 and np.nanmin(pressure) == 15
        with pytest.raises(
            UserError, match="pressur: the store has no column and no label of that name; did you mean 'p"
        ):
            numbers_of(store, rows, "pressur")
        with pytest.raises(
            UserError, match=r"head\.covariates: laterality holds '[LR]', which is no number; leave it out"
        ):
            numbers_of(store, rows, "laterality")

    def test_a_head_that_asks_for_nothing_is_told_nothing(self, store):
        rows = select(store, {}, split="val")
        kept, history = with_history(store, rows, rows)
        assert kept is rows and history.told.covariates.numel() == history.told.days.numel() == 0
        assert NOTHING.of([0]) == NOTHING or not NOTHING.of([0]).days.numel()
