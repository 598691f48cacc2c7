"""Which DICOM objects are images that are read, and why each of the others is not. An allow-list, by SOP class."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from medssl.archive.reasons import Refusal
from medssl.archive.tags import number, text, words

VOLUME_SOPS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.77.1.5.4": "OPT",
}
"""SOP classes read as volumes, and the modality each stands for."""

PICTURE_SOPS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
}
"""SOP classes read as radiographs."""

FOR_PROCESSING = {"1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2.1"}
"""Radiographs that hold what the detector saw and not what is shown."""

STORAGE = "1.2.840.10008.5.1.4.1.1."
DIRECTORY = "1.2.840.10008.1.3.10"

LEFT_OUT = {
    "1.3": "DENTAL",
    "3": "ULTRASOUND",
    "4.2": "SPECTROSCOPY",
    "4.3": "COLOR_IMAGE",
    "5": "NUCLEAR_MEDICINE",
    "6": "ULTRASOUND",
    "7": "DERIVED_OR_SC",
    "9": "WAVEFORM",
    "11": "PRESENTATION_STATE",
    "12": "ANGIOGRAPHY",
    "13.1.1": "ANGIOGRAPHY",
    "13.1.2": "DENTAL",
    "13.1.3": "TOMOSYNTHESIS",
    "13.1.4": "TOMOSYNTHESIS",
    "13.1.5": "TOMOSYNTHESIS",
    "20": "NUCLEAR_MEDICINE",
    "30": "PARAMETRIC_MAP",
    "66": "RAW_DATA",
    "66.1": "NON_IMAGE_SOP",
    "66.2": "NON_IMAGE_SOP",
    "66.3": "NON_IMAGE_SOP",
    "66.4": "SEGMENTATION",
    "66.5": "SEGMENTATION",
    "66.6": "NON_IMAGE_SOP",
    "66.7": "SEGMENTATION",
    "66.8": "SEGMENTATION",
    "67": "NON_IMAGE_SOP",
    "68": "NON_IMAGE_SOP",
    "77.1.1": "VISIBLE_LIGHT",
    "77.1.2": "PATHOLOGY",
    "77.1.3": "PATHOLOGY",
    "77.1.4": "VISIBLE_LIGHT",
    "77.1.5.1": "EYE_PHOTO",
    "77.1.5.2": "EYE_PHOTO",
    "77.1.5.5": "EYE_PHOTO",
    "77.1.5.6": "EYE_PHOTO",
    "77.1.5.7": "OCT_EN_FACE",
    "77.1.5.8": "OCT_EN_FACE",
    "77.1.6": "PATHOLOGY",
    "78": "EYE_MEASUREMENT",
    "79": "EYE_MEASUREMENT",
    "80": "EYE_MEASUREMENT",
    "81": "EYE_MEASUREMENT",
    "82": "EYE_MEASUREMENT",
    "88": "STRUCTURED_REPORT",
    "88.59": "KEY_OBJECTS",
    "88.67": "DOSE_PAGE",
    "88.68": "DOSE_PAGE",
    "88.73": "DOSE_PAGE",
    "88.76": "DOSE_PAGE",
    "104": "ENCAPSULATED_DOCUMENT",
    "128": "PET_LEFT_OUT",
    "130": "PET_LEFT_OUT",
    "481": "RADIOTHERAPY",
}
"""SOP classes below STORAGE that are left out, and why; a longer one counts before a shorter one that it begins with."""

DERIVED = {"SECONDARY", "LOCALIZER", "PROJECTION IMAGE", "MPR", "CPR", "REPORT", "CSA REPORT"}
"""Words of ImageType that mean: not an acquisition. Secondary on its own is common for ADC maps and stays in for MR."""

SAVED_SCREENS = {"SCREEN SAVE", "SCREENSAVE", "SCREEN CAPTURE"}
DOSE_WORDS = {"DOSE_INFO", "DOSE INFO", "DOSE REPORT", "DOSE RECORD", "DOSEREPORT"}
DOSE_TEXT = re.compile(r"\bdose (report|record|info|page|summary)|\bpatient protocol\b", re.IGNORECASE)
"""What scanners call the page that tells a series' dose."""

NOT_A_PATIENT = re.compile(r"\bPHANTOM\b|\bQUALITY (CONTROL|ASSURANCE)\b|^QC\b|^QA\b")
"""Names that a department gives to what it measures its machines with."""

PEOPLE = ("", "HUMAN", "HOMO SAPIENS")
"""What PatientSpeciesDescription says of people, who hardly ever have one."""


def route(name: str, facts: Any) -> str:
    """The modality of an image that is read. Raises Refusal, about the file `name`, for every other object."""
    sop = text(facts, "SOPClassUID") or text(facts, "MediaStorageSOPClassUID")
    modality = VOLUME_SOPS.get(sop) or PICTURE_SOPS.get(sop)
    if modality is None:
        raise Refusal(_reason(sop, "Rows" in facts), name, sop)
    kinds = set(words(facts, "ImageType"))
    if "MOSAIC" in kinds:
        raise Refusal("MOSAIC_UNSUPPORTED", name)
    if kinds & DOSE_WORDS or _is_dose_page(text(facts, "SeriesDescription")):
        raise Refusal("DOSE_PAGE", name)
    if kinds & SAVED_SCREENS:
        raise Refusal("SCREEN_SAVE", name)
    derived = kinds & (DERIVED - ({"SECONDARY"} if modality == "MR" else set()))
    if derived or text(facts, "ConversionType").upper() == "WSD":
        raise Refusal("DERIVED_OR_SC", name, min(derived, default="WSD"))
    if text(facts, "BurnedInAnnotation").upper() == "YES":
        raise Refusal("BURNED_IN", name)
    _check_subject(name, facts)
    if not number(facts, "Rows", 0) or not number(facts, "Columns", 0):
        raise Refusal("NO_PIXELS", name)
    colours = text(facts, "PhotometricInterpretation").upper()
    if number(facts, "SamplesPerPixel", 1) != 1 or colours.startswith(("PALETTE", "RGB", "YBR")):
        raise Refusal("COLOR_IMAGE", name)
    return modality


def _reason(sop: str, has_rows: bool) -> str:
    """Why an object of a SOP class that is not read is left out."""
    if sop == DIRECTORY:
        return "DICOM_DIRECTORY"
    image = sop.startswith(STORAGE)
    parts = sop.removeprefix(STORAGE).split(".") if image else []
    for count in range(len(parts), 0, -1):
        if code := LEFT_OUT.get(".".join(parts[:count])):
            return code
    return "UNSUPPORTED_SOP" if image and has_rows else "NON_IMAGE_SOP"


def _check_subject(name: str, facts: Any) -> None:
    """Nothing; Refusal for what is not a person. The name is looked at and not kept."""
    control = text(facts, "QualityControlSubject").upper() == "YES"
    if control or _is_no_patient(text(facts, "PatientName")):
        raise Refusal("PHANTOM", name)
    species = text(facts, "PatientSpeciesDescription").upper()
    if text(facts, "AnatomicalOrientationType").upper() == "QUADRUPED" or species not in PEOPLE:
        raise Refusal("ANIMAL", name)


@lru_cache(4096)
def _is_dose_page(description: str) -> bool:
    return DOSE_TEXT.search(description) is not None


@lru_cache(4096)
def _is_no_patient(name: str) -> bool:
    return NOT_A_PATIENT.search(re.sub(r"[\^_=]+", " ", name.upper())) is not None
