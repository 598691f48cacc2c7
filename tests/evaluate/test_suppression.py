"""No count of a group that is not shown follows from what is shown."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from medssl.evaluate import evaluate
from medssl.evaluate.cells import COMPLEMENT, Cell, hidden_cells
from medssl.evaluate.groups import with_group
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.suppression import hidden_groups
from medssl.evaluate.terms import Terms

PROTECTED = Terms(protect_unknown=True)
JOINT = "or hidden so"
FREE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def people(sizes, sick=None, crossed=None):
    """A table with so many patients of each value of `a`, one row each, so many of each with label 1."""
    value = np.repeat(list(sizes), list(sizes.values()))
    sick = sick or {name: size // 2 for name, size in sizes.items()}
    label = np.concatenate([np.arange(size) < sick[name] for name, size in sizes.items()]) * 1.0
    rows = pd.DataFrame({"patient_id": [f"p{k}" for k in range(len(value))], "a": value, "label": label})
    return rows if crossed is None else rows.assign(b=crossed)


def hidden_of(sizes, minimum=11, **more):
    rows = people(sizes, **more)
    return hidden_groups(rows, rows.iloc[:0], "a", minimum, free=())


def most_and_fewest(totals, rows_of, reasons, minimum):
    """For each hidden cell the fewest and the most patients that the totals and the reasons leave open, by linear
    programmes: `rows_of` says which hidden cells each total is of.
    """
    names = sorted(reasons)
    matrix = np.array([[name in line for name in names] for line in rows_of], float)
    bounds = []
    for name in names:
        small = reasons[name].startswith("fewer") and JOINT not in reasons[name]
        complement = reasons[name] == COMPLEMENT
        bounds.append((1, minimum - 1 if small else None) if not complement else (minimum, None))
    found = {}
    for place, name in enumerate(names):
        ends = []
        for sign in (1, -1):
            cost = np.zeros(len(names))
            cost[place] = sign
            solved = linprog(cost, A_eq=matrix, b_eq=totals, bounds=bounds)
            assert solved.status == 0, "what is shown cannot be true"
            ends.append(sign * solved.fun)
        found[name] = tuple(ends)
    return found


@given(
    sizes=st.dictionaries(st.sampled_from([*"abcde", "unknown"]), st.integers(1, 40), min_size=2, max_size=6),
    minimum=st.sampled_from([2, 5, 11]),
)
@FREE
def test_what_is_left_over_tells_no_head_count(sizes, minimum):
    hidden = hidden_of(sizes, minimum)
    small = {name for name, size in sizes.items() if size < minimum}
    assert small <= set(hidden)
    assert bool(hidden) == bool(small)
    if not hidden:
        return
    left_over = sum(sizes[name] for name in hidden)
    ends = most_and_fewest([left_over], [set(hidden)], hidden, minimum)
    if any(JOINT in reason for reason in hidden.values()):
        assert set(hidden) == set(sizes)  # nothing is shown of anybody
        return
    assert len(hidden) >= 2
    for name in small:
        assert ends[name] == (1, minimum - 1)


@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=2, max_size=4),
    sick=st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
@FREE
def test_what_is_left_over_tells_nobodys_label(sizes, sick):
    sick = {name: min(size, count) for (name, size), count in zip(sizes.items(), sick, strict=False)}
    hidden = hidden_of(sizes, sick=sick)
    left_over = sum(sick[name] for name in hidden)
    if hidden and set(hidden) != set(sizes):
        assert left_over > 0 or not sum(sick.values())
        assert left_over < sum(sizes[name] for name in hidden)


@given(
    cells=st.lists(st.integers(0, 30), min_size=9, max_size=9),
    minimum=st.sampled_from([5, 11]),
    unknown=st.integers(0, 15),
)
@settings(FREE, max_examples=40)
def test_a_crossing_tells_nothing_against_its_margins(cells, minimum, unknown):
    """Two attributes of three values; whoever has no `b` is in the unknown cell of the crossing."""
    pairs = [(a, b) for a in "xyz" for b in "uvw"]
    table = pd.DataFrame(
        [pair for pair, count in zip(pairs, cells, strict=True) for _ in range(count)] + [("x", "unknown")] * unknown,
        columns=["a", "b"],
    )
    if table.empty:
        return
    table = table.assign(patient_id=[f"p{k}" for k in range(len(table))], label=np.arange(len(table)) % 2 * 1.0)
    nobody = table.iloc[:0]
    crossed, groups = hidden_groups(table, nobody, "a*b", minimum, free=()), with_group(table, "a*b")["group"]
    sizes = groups.value_counts()
    assert {name for name, size in sizes.items() if size < minimum} <= set(crossed)
    if not crossed or set(crossed) >= {f"{a} x {b}" for a in set(table["a"]) for b in set(table["b"]) - {"unknown"}}:
        return  # nothing is hidden, or nothing is shown
    lines, totals = [set(crossed)], [sum(sizes[name] for name in crossed)]
    for part, values in ("a", "xyz"), ("b", "uvw"):
        gone = hidden_groups(table, nobody, part, minimum, free=())
        for value in set(values) - set(gone):
            line = {name for name in crossed if value in name.split(" x ")}
            if line:
                lines.append(line)
                totals.append(sum(sizes[name] for name in line))
        for value in gone:
            assert {name for name in sizes.index if value in name.split(" x ")} <= set(crossed)
    assert len(set(crossed.values())) == 1
    for name, (fewest, most) in most_and_fewest(totals, lines, crossed, minimum).items():
        assert most - fewest > 0.5, f"{name} follows from the margins"


def test_the_rule_by_hand():
    assert hidden_of({"a": 40, "b": 50, "c": 60}) == {}
    assert hidden_of({"a": 3, "b": 50, "c": 60}) == {"a": "fewer than 11 patients", "b": COMPLEMENT}
    # Eleven and three: whoever knows that b is at least eleven knows that a is at most three.
    assert set(hidden_of({"a": 3, "b": 11, "c": 60})) == {"a", "b", "c"}
    # Two that are as large as small ones can be: their sum gives both away.
    assert set(hidden_of({"a": 10, "b": 10, "c": 60, "d": 70})) == {"a", "b", "c"}
    # Six patients without a positive among them, when all others are shown.
    assert set(hidden_of({"a": 3, "b": 50, "c": 60}, sick={"a": 0, "b": 0, "c": 9})) == {"a", "b", "c"}
    everything = hidden_of({"a": 1, "b": 12})
    assert set(everything.values()) == {f"fewer than 11 patients, or {COMPLEMENT}"}


def test_the_unknown_hide_behind_the_smallest_group():
    assert set(hidden_of({"F": 60, "M": 50, "unknown": 3})) == {"M", "unknown"}


@given(
    sizes=st.dictionaries(st.sampled_from([*"abcd", *NOT_KNOWN]), st.integers(1, 40), min_size=2, max_size=7),
    minimum=st.sampled_from([2, 5, 11]),
)
@FREE
def test_who_is_not_recorded_hides_nobody_and_protects_whoever_needs_it(sizes, minimum):
    """By default: as if all were protected, but where only some of those not known are few, nobody else is hidden."""
    rows = people(sizes)
    hidden = hidden_groups(rows, rows.iloc[:0], "a", minimum)
    small = {name for name, size in sizes.items() if size < minimum}
    if small <= set(NOT_KNOWN):
        assert set(hidden) == small
    else:
        assert hidden == hidden_groups(rows, rows.iloc[:0], "a", minimum, free=())


def test_few_without_a_sex_hide_no_crossing():
    """All pairs are large: of the crossing, only the few that are in no pair are not shown, and M stays."""
    rng = np.random.default_rng(0)
    table = people({"F": 90, "M": 80, "unknown": 3}, crossed=rng.choice(["u", "v"], 173))
    assert set(hidden_groups(table, table.iloc[:0], "a*b", 11)) == {"unknown"}
    assert {"M x u", "M x v"} <= set(hidden_groups(table, table.iloc[:0], "a*b", 11, free=()))


def test_a_group_that_nobody_judged_is_shown_and_one_that_few_were_is_not():
    judged, left = people({"a": 60, "b": 70, "d": 4}), people({"c": 30, "d": 40}).assign(label=np.nan)
    left["patient_id"] = "left" + left["patient_id"]
    assert set(hidden_groups(judged, left, "a", 11)) == {"a", "d"}


def test_a_pair_that_nobody_belongs_to_gives_nothing_away():
    """Nobody is x and v, so all of y less the one cell shown would be the other: no cell is shown, nor which is empty."""
    table = people({"x": 30, "y": 55}, crossed=["u"] * 30 + ["u"] * 5 + ["v"] * 50)
    hidden = hidden_groups(table, table.iloc[:0], "a*b", 11)
    assert set(hidden) == {"x x u", "x x v", "y x u", "y x v"}
    assert len(set(hidden.values())) == 1


def test_cells_of_a_hidden_group_are_hidden_though_others_are_smaller():
    """y hides x; its cells are hidden with it, though those of z would be the first to hide those of x."""
    halves = ["u"] * 8 + ["v"] * 7 + ["u"] * 40 + ["v"] * 40 + ["u"] * 30 + ["v"] * 170 + ["u", "v"] * 150
    table = people({"x": 15, "y": 80, "z": 200, "t": 300}, crossed=halves)
    table["label"] = np.arange(595) % 2 * 1.0
    assert set(hidden_groups(table, table.iloc[:0], "a", 20)) == {"x", "y"}
    assert {"x x u", "x x v", "y x u", "y x v"} <= set(hidden_groups(table, table.iloc[:0], "a*b", 20))


def test_a_cell_that_follows_from_all_margins_together_is_found():
    """Two blocks that share one cell: every line has two hidden cells, and yet the margins give the bridge away."""
    cells = {name: Cell(20, 20) for name in ("a1", "a2", "b1", "b2", "b3", "c3", "c4", "d3", "d4", "e5")}
    lines = [{n for n in cells if n[0] == row} for row in "abcde"] + [{n for n in cells if n[1] == c} for c in "12345"]
    forced = frozenset(cells) - {"e5"}
    assert "b3" in hidden_cells(cells, lines, 5, forced)
    told = hidden_cells(cells, lines, 5, forced)
    assert set(told) == set(cells), "b3 is all of a and b less all of 1 and 2, unless nothing is shown"


def report_of(sizes, seed, eyes):
    rng = np.random.default_rng(seed)
    race = np.repeat(np.repeat(list(sizes), list(sizes.values())), eyes)
    label = (rng.random(len(race)) < 0.3) * 1.0
    rows = pd.DataFrame({
        "sample_id": [f"s{k}" for k in range(len(race))], "patient_id": [f"p{k // eyes}" for k in range(len(race))],
        "split": "test", "label": label, "score": rng.random(len(race)) * 0.5 + 0.4 * label, "race": race,
        "sex": np.repeat(rng.choice(["F", "M", "unknown"], len(race) // eyes, p=[0.5, 0.45, 0.05]), eyes),
    })  # fmt: skip
    rows.loc[rng.random(len(rows)) < 0.03, "score"] = np.nan
    extra = rows.iloc[:60].assign(split="val", patient_id="v" + rows["patient_id"], sample_id="v" + rows["sample_id"])
    return evaluate({"eye": pd.concat([rows, extra])}, by=["race", "sex", "race*sex"], terms=PROTECTED)["analyses"][0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eyes", [1, 2])
def test_no_count_of_the_report_follows_by_subtraction(seed, eyes):
    """Every count by group that a report holds: where some are hidden, they are two or more that share a rest."""
    rng = np.random.default_rng(100 + seed)
    sizes = {
        name: int(size) for name, size in zip("abcd", rng.permutation([4, 9, 60, 90]) + rng.integers(0, 5), strict=True)
    }
    analysis = report_of({**sizes, "unknown": 13}, seed, eyes)
    told = {"cohort": [{"attribute": "", **{k: v for k, v in analysis["cohort"].items() if k != "attributes"}}]}
    told["cohort"] += [
        {"attribute": a["attribute"], **g} for a in analysis["cohort"]["attributes"] for g in a["groups"]
    ]
    for metric in {row["metric"] for row in analysis["estimates"]}:
        told[metric] = [row for row in analysis["estimates"] if row["metric"] == metric]
    told["operating"] = [
        {**row, **(row["counts"] or dict.fromkeys(("found", "missed", "false_alarms", "spared")))}
        for row in analysis["sections"]["operating"]["rows"]
    ]
    sets = {}
    for place, rows in told.items():
        whole = next(row for row in rows if not row["attribute"])
        for attribute in ("race", "sex", "race*sex"):
            own = [row for row in rows if row["attribute"] == attribute]
            hidden = frozenset(
                row["group"] for row in own if (row["reason"] and "n_patients" not in row) or _blank(row)
            )
            sets.setdefault(attribute, set()).add(hidden)
            assert len(hidden) != 1, f"{place}: {attribute} {hidden} is all less the others"
            for count in ("n_positive", "n_rows") if "n_rows" in whole else ():
                rest = whole[count] - sum(row[count] for row in own if row["group"] not in hidden)
                assert rest > 0 if hidden else rest == 0, f"{place}: {count} of {attribute}"
    assert all(len(one) == 1 for one in sets.values()), "one decision for all places"
    assert sets["race"] != {frozenset()}
    for attribute in analysis["cohort"]["attributes"]:
        gone = {group["group"] for group in attribute["groups"] if group["reason"]}
        assert (attribute["unknown_share"] is None) == ("unknown" in gone)
    json.dumps(analysis, allow_nan=False)


def _blank(row):
    return "n_patients" in row and row["n_patients"] is None


@pytest.mark.parametrize("few", [3, 25])
def test_a_difference_tells_no_share_of_a_hidden_group(few):
    """M hides the unknown: what F is compared with is everybody else, so that no share of M is told."""
    rows = people({"F": 90, "M": 80, "unknown": few}).rename(columns={"a": "sex"})
    rng = np.random.default_rng(0)
    rows = rows.assign(
        sample_id=rows["patient_id"], split="test", score=rng.random(len(rows)) * 0.6 + 0.2 * rows["label"]
    )
    analysis = evaluate({"eye": rows}, terms=PROTECTED)["analyses"][0]
    gap = next(row for row in analysis["gaps"] if row["group"] == "F")
    rest = rows[rows["sex"] != "F"] if few < 11 else rows[rows["sex"] == "M"]
    score, sick = rest["score"].to_numpy(), rest["label"].to_numpy() == 1
    assert gap["rest_value"] == pytest.approx((score[sick][:, None] > score[~sick][None]).mean())
    assert [row["verdict"] for row in analysis["gaps"] if row["group"] == "M"] == [
        "suppressed" if few < 11 else gap["verdict"]
    ]
