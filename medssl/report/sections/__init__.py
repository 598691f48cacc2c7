"""Drawing the sections of an analysis: each has a template NAME.html and, where it has figures, its drawing here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medssl.report.sections.disparity import differences
from medssl.report.sections.lesions import froc

Drawing = Callable[[Mapping[str, Any], str], dict[str, str]]
"""(content of the section in report.json, a name unique on the page) -> name -> SVG, see report/drawing.py."""

DRAWINGS: dict[str, Drawing] = {
    "disparity": differences,
    "lesions": froc,
}
