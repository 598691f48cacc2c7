"""Who is trained on and who is judged: a patient's place depends on nothing but the patient's id and a seed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medssl.errors import UserError
from medssl.manifest.card import EXTERNAL, Card


@dataclass(frozen=True, kw_only=True)
class Person:
    """What decides a patient's split. `sites` are all that the patient was seen at, `first_study` is YYYYMMDD ("": not
    known), `official` what the makers of a data set said. `trained_on` is true of somebody who must not be judged on.
    """

    patient_id: str
    official: str = ""
    sites: frozenset[str] = frozenset()
    first_study: str = ""
    trained_on: bool = False


def split_for(person: Person, card: Card) -> str:
    """The split of a patient, by the first of these that applies.

    The makers' own split. A site that is held out: all its patients are "external", seen there once or always. `trained_on`:
    "train". With `test_from`: patients first seen on or after that day are "test" and all others "train" or "val", also
    those without a date, so that the future is never learned from. Else the place that `split_of` gives.

    Newcomers never move anybody. A new study moves a patient in two cases only: it comes from a held-out site, or is
    older than all the others and before `test_from`.
    """
    who, seed, fractions = person.patient_id, card.split_seed, card.splits
    if person.official:
        return within(who, person.official, seed, fractions)
    if person.sites & set(card.held_out_sites):
        return EXTERNAL
    if person.trained_on and fractions.get("train", 0.0) > 0:
        return "train"
    if card.test_from:
        is_future = bool(person.first_study) and person.first_study >= card.test_from.replace("-", "")
        return "test" if is_future else within(who, "train+val", seed, fractions)
    return split_of(who, seed, fractions)


def split_of(patient_id: str, seed: str, fractions: Mapping[str, float]) -> str:
    """The split of a patient. Other patients, new files and the pseudonym key cannot move it.

    `fractions` (adding up to 1) are walked in the order train, val, test whatever order they are given in.
    """
    digest = hmac.new(seed.encode(), patient_id.encode(), hashlib.sha256).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name in ("train", "val", "test"):
        edge += fractions.get(name, 0.0)
        if place < edge:
            return name
    return max(fractions, key=lambda name: fractions[name])


def official_splits(told: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The split (or several with + between) that the makers of a data set gave each patient; "" tells nothing.

    Raises UserError for patients with two: whoever is trained on must not be judged on.
    """
    heard: dict[str, set[str]] = {}
    for who, word in told:
        if word:
            heard.setdefault(who, set()).add(word)
    if torn := sum(len(words) > 1 for words in heard.values()):
        raise UserError(f"{torn} patients are in two splits of the card; mend the split column, or the patients' ids")
    return {who: words.pop() for who, words in heard.items()}


def within(patient_id: str, word: str, seed: str, fractions: Mapping[str, float]) -> str:
    """The split of a patient whom the makers put into `word`; of "train+val" one of the two, as `fractions` say."""
    names = word.split("+")
    total = sum(fractions.get(name, 0.0) for name in names)
    return split_of(patient_id, seed, {name: fractions.get(name, 0.0) / total for name in names}) if total else names[0]
