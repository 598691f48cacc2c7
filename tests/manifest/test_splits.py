"""Who is trained on and who is judged: by lot, by site, by time, or as the makers of a set said."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.errors import UserError
from medssl.manifest import Card, index, read_cohort
from medssl.manifest.splits import Person, split_for

LOT = Card(name="lot")
names = st.text(min_size=1, max_size=8)
days = st.dates().map(lambda day: day.strftime("%Y%m%d"))


def card(**settings):
    return Card(name="x", **settings)


@given(who=names, sites=st.sets(st.sampled_from(["north", "south", "west"])), day=days)
def test_by_site_and_by_lot(who, sites, day):
    plain = split_for(Person(patient_id=who), LOT)
    person = Person(patient_id=who, sites=frozenset(sites), first_study=day)
    assert split_for(person, LOT) == plain
    assert split_for(person, card(held_out_sites=("north", "east"))) == ("external" if "north" in sites else plain)


@given(who=names, day=st.one_of(days, st.just("")))
def test_nobody_from_after_the_day_is_learned_from(who, day):
    found = split_for(Person(patient_id=who, first_study=day), card(test_from="2015-06-30"))
    if day >= "20150630":
        assert found == "test"
    else:
        assert found in ("train", "val")


@given(who=names, word=st.sampled_from(["train", "val", "test", "train+val", "val+test"]))
def test_the_makers_have_the_first_word(who, word):
    person = Person(patient_id=who, official=word, sites=frozenset({"north"}), first_study="20200101", trained_on=True)
    assert split_for(person, card(held_out_sites=("north",), test_from="2015-06-30")) in word.split("+")


@given(who=names)
def test_who_must_not_be_judged_on_is_trained_on(who):
    person = Person(patient_id=who, first_study="20200101", trained_on=True)
    assert split_for(person, card(test_from="2015-06-30")) == "train"
    assert split_for(person, card(splits={"test": 1.0})) == "test"


def test_the_fractions_are_reached():
    found = Counter(split_for(Person(patient_id=f"p{n}"), LOT) for n in range(20_000))
    for name, fraction in LOT.splits.items():
        assert found[name] / 20_000 == pytest.approx(fraction, abs=0.015)
    past = Counter(split_for(Person(patient_id=f"p{n}"), card(test_from="2015-06-30")) for n in range(20_000))
    assert past["val"] / 20_000 == pytest.approx(0.1 / 0.7, abs=0.015)


@pytest.mark.parametrize("day", ["2015", "30.6.2015", "20150630", "yesterday"])
def test_a_day_that_is_none(day):
    with pytest.raises(UserError, match="test_from"):
        card(test_from=day)


def test_sites_and_days_from_headers(series, tmp_path):
    """The institution and the day are used in memory; neither is in the manifest."""
    for n, (site, day) in enumerate([("Canary North", "20100101"), ("South", "20100101"), ("South", "20200202")]):
        series(tmp_path / "a" / f"s{n}", f"P-{n}", InstitutionName=site, StudyDate=day)
    told = card(held_out_sites=("Canary North", "Nowhere"), test_from="2015-01-01")
    receipt = index(tmp_path / "a", tmp_path / "c", card=told)
    assert receipt.splits["external"] == receipt.splits["test"] == 1
    assert "1 of the card's held_out_sites have no patient; compare their spelling with the table's" in receipt.notes
    cohort = read_cohort(tmp_path / "c")
    assert sorted(cohort.patients["split"])[0] == "external"
    for path in (tmp_path / "c").glob("*.*"):
        assert b"Canary" not in path.read_bytes()
        assert b"20200202" not in path.read_bytes()


def test_days_that_cannot_be_read_are_told(series, tmp_path):
    for n, day in enumerate(["20200202", "2020.02.02", "02/02/2020", ""]):
        series(tmp_path / "a" / f"s{n}", f"P-{n}", StudyDate=day)
    receipt = index(tmp_path / "a", tmp_path / "c", card=card(test_from="2015-01-01"))
    assert receipt.splits["test"] == 2
    assert "2 patients have a study without a readable date, which test_from does not see" in receipt.notes
