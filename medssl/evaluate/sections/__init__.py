"""The parts of an analysis beyond metrics and gaps, each a question that some reader asks, each in a file of its own.

A part is told what is judged and answers with what goes into report.json under its name, or None where it has nothing to
say of such a table. It names no patient, and shows nothing of a group that is too small (`Judged.groups`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medssl.evaluate.sections.calibration import calibration
from medssl.evaluate.sections.casemix import casemix
from medssl.evaluate.sections.decision import decision
from medssl.evaluate.sections.disparity import disparity
from medssl.evaluate.sections.intersections import intersections
from medssl.evaluate.sections.judged import Judged
from medssl.evaluate.sections.lesions import lesions
from medssl.evaluate.sections.missing import missing
from medssl.evaluate.sections.operating import operating
from medssl.evaluate.sections.shift import shift
from medssl.evaluate.sections.thresholds import thresholds
from medssl.evaluate.sections.volume import volume

SECTIONS: dict[str, Callable[[Judged], dict[str, Any] | None]] = {
    "operating": operating,
    "calibration": calibration,
    "decision": decision,
    "disparity": disparity,
    "thresholds": thresholds,
    "casemix": casemix,
    "intersections": intersections,
    "shift": shift,
    "lesions": lesions,
    "volume": volume,
    "missing": missing,
}
"""In the order of the page. A name is also the file of its drawing, medssl/report/sections/NAME.html."""

__all__ = ["SECTIONS", "Judged"]
