"""Which part of a biparametric prostate MR a series is: T2-weighted, ADC or high-b diffusion."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from medssl.archive.headers import Header

HIGH_B = 1000.0
"""Diffusion weighting in s/mm2 from which a trace image counts as high-b."""

T2_ECHO_MS, T2_REPETITION_MS = 70.0, 2000.0
"""Spin echoes slower than these are T2-weighted."""

OTHER_PARTS = {"BRAIN", "HEAD", "SPINE", "CSPINE", "LSPINE", "TSPINE", "KNEE", "HEART", "BREAST", "SHOULDER"}
"""Body parts that have T2-weighted series of their own and no prostate."""

AXIAL_DEGREES = 30.0
"""Largest angle between an axial slice's normal and the body's axis."""


def role_of(headers: Sequence[Header]) -> str:
    """ "adc", "hbv", "t2w" or "" by the tags, description last.

    ADC anywhere in ImageType beats every b-value: scanners write a b-value into ADC series too.
    """
    first = headers[0]
    if first.modality != "MR" or first.body_part.upper() in OTHER_PARTS:
        return ""
    words = set(first.image_type)
    text = first.description.lower()
    units = first.rescale_type.lower().replace(" ", "")
    if "ADC" in words or "mm2/s" in units or "mm^2/s" in units or re.search(r"\badc\b", text):
        return "adc"
    if "CALC_BVAL" in words or ("calc" in text and "bval" in text.replace("_", "").replace("-", "")):
        return "hbv"
    if np.isfinite(first.b_value) and (first.b_value > 0 or "DIFFUSION" in words):
        return "hbv" if first.b_value >= HIGH_B else ""
    slow = first.echo_time > T2_ECHO_MS and first.repetition_time > T2_REPETITION_MS
    return "t2w" if slow and not words & {"DIFFUSION", "TRACEW"} and _is_axial(first) else ""


def _is_axial(header: Header) -> bool:
    if header.orientation is None:
        return False
    cosines = np.array(header.orientation)
    return abs(float(np.cross(cosines[:3], cosines[3:])[2])) > np.cos(np.deg2rad(AXIAL_DEGREES))
