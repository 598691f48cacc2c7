from collections import Counter

from medssl.phantom.cohort import BLANK_RATES, COLUMNS, people


def test_half_of_every_race_is_affected() -> None:
    group = people("eye", 200, seed=5)
    for race, share in {"Black": 0.28, "White": 0.52, "Asian": 0.20}.items():
        members = [person for person in group if person.race == race]
        assert len(members) == round(200 * share)
        assert abs(sum(person.affected for person in members) - len(members) / 2) <= 0.5


def test_a_small_cohort_is_the_beginning_of_a_large_one() -> None:
    assert people("eye", 60, seed=1)[:7] == people("eye", 7, seed=1)
    assert people("eye", 7, seed=1) != people("eye", 7, seed=2)
    assert people("eye", 0, seed=1) == []


def test_cells_are_blank_at_the_stated_rates_and_nowhere_else() -> None:
    rows = [dict(zip(COLUMNS, person.row(), strict=True)) for person in people("eye", 3000, seed=0)]
    for name in COLUMNS:
        blank = sum(row[name] == "" for row in rows) / len(rows)
        assert abs(blank - BLANK_RATES.get(name, 0.0)) < 0.015, name


def test_only_eye_patients_have_a_glaucoma_cell_and_prostate_patients_are_men() -> None:
    assert {person.row()[-1] for person in people("eye", 50, seed=0)} == {"0", "1"}
    assert {person.row()[-1] for person in people("chest", 50, seed=0)} == {""}
    assert {person.sex for person in people("prostate", 50, seed=0)} == {"M"}


def test_sex_and_scanner_are_independent_of_disease() -> None:
    group = people("eye", 4000, seed=0)
    sick = Counter(person.sex for person in group if person.affected)
    well = Counter(person.sex for person in group if not person.affected)
    assert abs(sick["F"] / sick.total() - well["F"] / well.total()) < 0.05
    machines = Counter((person.scanner, person.affected) for person in group)
    assert max(machines.values()) - min(machines.values()) < 0.15 * 4000 / 6
