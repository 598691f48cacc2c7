"""Who is trained on and who is judged: a patient's place depends on nothing but the patient's id and a seed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping


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
