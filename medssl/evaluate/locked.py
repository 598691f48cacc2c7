"""Thresholds fixed elsewhere, before this table was opened: each says what it is and where it comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medssl.errors import UserError
from medssl.evaluate.threshold import Threshold

KEYS = ("value", "rule", "data", "date")
EXAMPLE = '{"value": 0.31, "rule": "sensitivity of at least 0.90", "data": "validation, site A", "date": "2026-03-01"}'


def read_thresholds(given: str) -> dict[str, Threshold]:
    """Task -> threshold, "" where there is one only, of VALUE:PROVENANCE or of a JSON file: one threshold (value, rule,
    data, date), or one for each task. Raises UserError (E141): a number alone does not tell whether it flatters the model.
    """
    path = Path(given)
    if path.suffix.lower() == ".json" or path.is_file():
        content = _content(path)
        if "value" in content:
            return {"": _of(content, given)}
        return {task: _of(one, f"{given}: {task}") for task, one in content.items()}
    number, _, told = given.partition(":")
    value = _number(number, f"--threshold {given}")
    if not told.strip():
        raise UserError(
            f"--threshold {given}: E141 does not say where it comes from; give {number}:WHERE FROM, e.g. "
            f"'{number}:sensitivity of 0.90 on validation patients, March 2026', or a JSON file {EXAMPLE}"
        )
    return {"": Threshold(value, f"{value:.3f}, {told.strip()} (as declared)", "given")}


def thresholds_of(names: Sequence[str], given: Mapping[str, Threshold]) -> dict[str, Threshold]:
    """The threshold given for each analysis that has one, by the analysis's name or by its task's. Raises UserError where
    one is given for all of several, or for none of them.
    """
    if given and not names:
        raise UserError("--threshold: E141 a segmentation has none; leave it out")
    if "" in given and len(names) > 1:
        raise UserError(
            f"--threshold: E141 one for {len(names)} analyses ({', '.join(names[:5])}); each has its own, give a JSON file "
            "of name: {value, rule, data, date}"
        )
    if "" in given:
        return {names[0]: given[""]}
    found: dict[str, Threshold] = {}
    for key, threshold in given.items():
        own = [name for name in names if key in (name, name.partition(": ")[2])]
        if not own:
            near = get_close_matches(key, names, n=1)
            raise UserError(
                f"--threshold: E161 there is no {key!r}; there is: {', '.join(names)}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
        found |= dict.fromkeys(own, threshold)
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--threshold {path}: no such file; give {EXAMPLE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"--threshold {path}: E141 not JSON ({error}); give {EXAMPLE}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"--threshold {path}: E141 holds no threshold; give {EXAMPLE}")
    return content


def _of(content: Any, where: str) -> Threshold:
    lacking = [key for key in KEYS if not (isinstance(content, dict) and str(content.get(key, "")).strip())]
    if lacking:
        raise UserError(f"--threshold {where}: E141 does not tell its {', '.join(lacking)}; give {EXAMPLE}")
    value = _number(content["value"], f"--threshold {where}")
    return Threshold(
        value, f"{value:.3f}, {content['rule']} on {content['data']}, {content['date']} (as declared)", "given"
    )


def _number(given: Any, where: str) -> float:
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: E141 {given!r} is neither a number nor a JSON file; give {EXAMPLE}")
    return value
