"""Who is trained on and who is judged: a patient's place depends on nothing but the patient's id and a seed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from medssl.errors import UserError


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
