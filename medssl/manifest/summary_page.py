"""summary.html: one closed file without script, readable in grey and aloud. Drawings are numbers here, tags there."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl.archive.reasons import REASONS
from medssl.manifest.people import ATTRIBUTES
from medssl.manifest.thumbnails import Thumbnail

TEMPLATE = Path(__file__).parent / "summary.html"

LONGEST_LABEL = 60
"""Characters of a name from a table or a header that are shown."""

MOST_REASONS = 6
"""Reasons named in the diagram at each level; the table under it has all."""

LINE, HEAD, GAP = 17, 74, 26
"""Pixels of the diagram: a line of text, a box of the main column, the arrow between two boxes."""

BAR = 268
"""Pixels of the bar in a box of the diagram that stands for all that entered."""

LEAST_AXIS = 0.05
"""The axis of exclusion rates reaches at least this far: a rate of 0.1 % must not look large."""

Row = dict[str, Any]


def render(content: Row, thumbnails: Sequence[Thumbnail]) -> str:
    """The page as text; every word from a table or a header is escaped, cleaned and cut."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"tame": tame, "number": number, "percent": percent, "short": short, "many": many}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        c=content, findings=findings(content), diagram=diagram(content["flow"]), axes=_axes(content["people"]),
        pictures=[_pictured(thumbnail) for thumbnail in thumbnails],
    )  # fmt: skip


def findings(content: Row) -> list[str]:
    """What the page shows, in sentences: what can be used, what was lost, what is not recorded, what does not fit."""
    levels = {level["name"]: level for level in content["flow"]}
    kinds = ", ".join(f"{number(row['volumes'])} {row['modality']}" for row in content["modalities"] if row["volumes"])
    people = content["people"]
    lost = people["all"]["left"]
    sentences = [
        f"{number(content['volumes'])} volumes ({kinds or 'none'}) of {number(levels['patients']['stayed'])} patients can "
        f"be used, from {number(levels['files']['entered'])} files ({_bytes(content['bytes'])}).",
        f"Of {number(people['all']['patients'])} patients {number(lost['n'])} {'is' if lost['n'] == 1 else 'are'} left out "
        f"wholly ({rate(lost)}).",
    ]
    faults = [row for row in content["reasons"] if not row["by_design"] and row["files"]]
    if faults:
        sentences.append(
            f"{number(sum(row['files'] for row in faults))} files left because something is wrong or unclear, most of "
            f"them by {faults[0]['code']}: {faults[0]['meaning']}"
        )
    else:
        sentences.append("No file left because something is wrong with it.")
    missing = [text for attribute in people["attributes"] if (text := _missing(attribute, people["all"]["patients"]))]
    sentences.append(f"Not recorded: {'; '.join(missing)}." if missing else "Nothing about the patients is missing.")
    return [tame(sentence, 400) for sentence in [*sentences, *(f"{note}." for note in content["notes"])]]


def _missing(attribute: Row, patients: int) -> str:
    """ "race of 12 % of patients"; "" when it is known of all."""
    for row in attribute["groups"]:
        if row["group"] == "unknown":
            name = ATTRIBUTES[attribute["attribute"]].lower()
            return f"{name} of {'some' if row['hidden'] else percent(row['patients'] / patients)} of patients".replace(
                "100 % of patients", "all patients"
            )
    return ""


def diagram(levels: Sequence[Row]) -> Row:
    """Where everything of the flow diagram stands, in pixels, and what it says in words."""
    boxes, top = [], 0
    for level in levels:
        left = list(level["left"].items())
        if len(left) > MOST_REASONS + 1:
            rest = left[MOST_REASONS:]
            left = [*left[:MOST_REASONS], (f"{len(rest)} other reasons", sum(n for _, n in rest))]
        height = max(HEAD, LINE * (len(left) + 1) + 18)
        lines = [(top + 22 + LINE * (place + 1), code, n) for place, (code, n) in enumerate(left)]
        filled = BAR * level["stayed"] / level["entered"] if level["entered"] else 0
        boxes.append({
            **level, "top": top, "height": height, "lines": lines, "gone": level["entered"] - level["stayed"],
            "filled": round(filled, 1), "arrow": top + height,
        })  # fmt: skip
        top += height + GAP
    return {"boxes": boxes, "height": max(top - GAP, 1), "gap": GAP, "bar": BAR, "told": " ".join(map(_told, levels))}


def _told(level: Row) -> str:
    reasons = ", ".join(f"{n} {code}" for code, n in level["left"].items())
    gone = level["entered"] - level["stayed"]
    return f"{level['name'].capitalize()}: {level['entered']} found, {level['stayed']} stay, {gone} leave" + (
        f" ({reasons})." if reasons else "."
    )


def _axes(people: Row) -> dict[str, float]:
    """The right end of the axis of each exclusion rate, the same for all groups; longer intervals run out of it."""
    rows = [row for each in people["attributes"] for row in each["groups"] if not row["hidden"]]
    large = [people["all"], *(row for row in rows if row["patients"] >= people["minimum"])]
    return {name: max([LEAST_AXIS, *(row[name]["high"] or 0.0 for row in large)]) for name in ("left", "hurt")}


def _pictured(thumbnail: Thumbnail) -> Row:
    shape = " x ".join(map(str, thumbnail.shape))
    words = " ".join(filter(None, (thumbnail.modality, thumbnail.role)))
    address = "data:image/png;base64," + base64.b64encode(thumbnail.png).decode() if thumbnail.png else ""
    return {
        "address": address, "reason": thumbnail.reason, "meaning": REASONS.get(thumbnail.reason, ""), "words": words,
        "scanner": thumbnail.scanner, "shape": shape, "name": thumbnail.volume_id[:8],
    }  # fmt: skip


def tame(text: object, longest: int = LONGEST_LABEL) -> str:
    """One short line without control and direction characters, which could reorder what a reader sees."""
    plain = "".join(c for c in str(text) if unicodedata.category(c)[0] not in "C" and c not in "\u2028\u2029")
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def number(count: int) -> str:
    """A count with a comma between thousands."""
    return f"{count:,}"


def many(count: int, noun: str) -> str:
    """A count and its noun, in the plural unless it is 1."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def short(value: float) -> str:
    """A size as people write it: 0.0208, 0.5, 224."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def percent(value: float) -> str:
    """A share in percent, with a decimal where it is small or nearly all."""
    return f"{100 * value:.{1 if 0 < value < 0.0995 or 0.9 < value < 1 else 0}f} %"


def rate(found: Row) -> str:
    """A share with its interval; "" of nothing."""
    if found["share"] is None:
        return "no patients"
    return f"{percent(found['share'])}, 95 % interval {percent(found['low'])} to {percent(found['high'])}"


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"
