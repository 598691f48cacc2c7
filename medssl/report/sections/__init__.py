"""Drawing the sections of an analysis: each has a template NAME.html and, where it has figures, its drawing here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medssl.report.sections.calibration import draw_calibration
from medssl.report.sections.decision import draw_decision
from medssl.report.sections.disparity import differences
from medssl.report.sections.lesions import froc

Drawing = Callable[[Mapping[str, Any], str], dict[str, str]]
"""(content of the section in report.json, a name unique on the page) -> name -> SVG, see report/drawing.py."""

DRAWINGS: dict[str, Drawing] = {
    "disparity": differences,
    "lesions": froc,
    "calibration": draw_calibration,
    "decision": draw_decision,
}
