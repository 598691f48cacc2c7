"""Three sentences that a clinician can read first: how good, for whom not, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def findings(analyses: Sequence[Row], margin: float) -> list[str]:
    """Three sentences. An absent gap is never called proof of its absence."""
    return [_how_good(analyses), _for_whom(analyses), _what_not(analyses, margin)]


def _how_good(analyses: Sequence[Row]) -> str:
    parts = []
    for analysis in analyses:
        row = analysis["estimates"][0]
        if row["value"] is None:
            parts.append(f"{analysis['name']} cannot be judged ({row['reason']})")
        elif analysis["task"] == "classification":
            parts.append(
                f"for {analysis['name']}, of 100 pairs of a patient with and one without it the model ranks about "
                f"{100 * row['value']:.0f} the right way (AUROC {_interval(row)}; {row['n_patients']} patients)"
            )
        else:
            parts.append(
                f"for {analysis['name']}, the outlines found overlap the reference with a mean Dice of {_interval(row)} "
                f"({row['n_patients']} patients)"
            )
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _for_whom(analyses: Sequence[Row]) -> str:
    """The largest gap shown; single attributes before crossings, which are made of them."""
    shown = [(a, gap) for a in analyses for gap in a["gaps"] if gap["verdict"] == "gap" and "*" not in gap["attribute"]]
    if not shown:
        return "No difference between a group and all others was shown at the 95 % level, which does not mean there is none."
    analysis, gap = max(shown, key=lambda pair: abs(pair[1]["value"]))
    word = "worse" if gap["value"] < 0 else "better"
    others = len(shown) - 1
    more = f"; {others} more {'gap is' if others == 1 else 'gaps are'} listed below" if others else ""
    metric = analysis["primary_metric"].replace("dice_mean", "mean Dice").replace("auroc", "AUROC")
    return (
        f"It does {word} for {gap['attribute']} {gap['group']} than for all others in {analysis['name']}: {metric} "
        f"{gap['group_value']:.2f} against {gap['rest_value']:.2f}, a difference of {_interval(gap)}{more}."
    )


def _what_not(analyses: Sequence[Row], margin: float) -> str:
    verdicts = [gap["verdict"] for a in analyses for gap in a["gaps"] if gap["verdict"] != "not evaluated"]
    open_, hidden = verdicts.count("inconclusive"), verdicts.count("suppressed")
    missing = [
        (attribute["unknown_share"], attribute["attribute"])
        for a in analyses
        for attribute in a["cohort"]["attributes"]
    ]
    share, name = max(missing, default=(0.0, ""))
    lacking = f"; {name} is not recorded for {100 * share:.0f} % of patients" if share > 0 else ""
    if not verdicts:
        return f"No attribute with two groups was there to compare{lacking}."
    return (
        f"Of {len(verdicts)} comparisons of a group with all others, {open_} are too uncertain to conclude whether a "
        f"difference of {margin:.2f} exists and {hidden} have too few patients to show{lacking}."
    )


def _interval(row: Row) -> str:
    if row["low"] is None:
        return f"{row['value']:.2f}"
    return f"{row['value']:.2f} (95 % interval {row['low']:.2f} to {row['high']:.2f})"
