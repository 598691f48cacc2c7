"""Where the numbers of a report come from, as lines of (what, which)."""

from __future__ import annotations

from medssl.report.words import Row

TOLD_ELSEWHERE = ("title", "split", "margin", "minimum_patients", "by")


def lines_of(report: Row) -> list[tuple[str, str]]:
    """Everything that is known of how a report came to be; of an older report.json what it tells."""
    told = report["provenance"]
    lines = [(name, told[name]) for name in ("command", "date") if name in told]
    for name, digest in told["tables"].items():
        lines.append((f"predictions {name}", f"{digest} (SHA-256 of the content, first 16 digits)"))
    for name, models in told.get("models", {}).items():
        lines.append((f"model {name}", "; ".join(models) or "not told; evaluate takes it with --columns model=:NAME"))
    for name, splits in told.get("splits", {}).items():
        counts = ", ".join(f"{split} {count}" for split, count in splits.items())
        lines.append((f"patients {name}", f"{counts}; checked: no patient is in two splits"))
    for analysis in report["analyses"]:
        if analysis["task"] == "classification":
            lines.append((f"threshold {analysis['name']}", analysis["threshold"]["provenance"]))
    lines.append(
        ("declared before looking", f"margin {report['margin']:.2f}; fewest patients {report['minimum_patients']}")
    )
    settings = told.get("settings", {})
    by = ", ".join(settings.get("by", [])) or "every attribute with few enough groups"
    lines.append(("groups", by))
    lines += [(name.replace("_", " "), str(value)) for name, value in settings.items()
              if name not in TOLD_ELSEWHERE and value not in (None, {})]  # fmt: skip
    lines.append(("unit, level", f"{told['unit']}, {100 * told['level']:.0f} %"))
    if "seed" in told:
        lines.append(("seed", f"{told['seed']} of every random draw"))
    lines += list(told["versions"].items())
    lines.append(("deviations", " ".join(told.get("deviations", [])) or "none was told"))
    return lines
