"""A label map as a DICOM segmentation object (PS3.3 A.51), by highdicom."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

KNOWN: dict[str, tuple[Code, Code]] = {
    "gland": (Code("91723000", "SCT", "Anatomical Structure"), Code("41216001", "SCT", "Prostate")),
    "prostate": (Code("91723000", "SCT", "Anatomical Structure"), Code("41216001", "SCT", "Prostate")),
    "lesion": (Code("49755003", "SCT", "Morphologically Abnormal Structure"), Code("52988006", "SCT", "Lesion")),
    "hippocampus": (Code("91723000", "SCT", "Anatomical Structure"), Code("5366008", "SCT", "Hippocampus")),
}
"""Category and type of structures by name; others are tissue."""

TISSUE = Code("85756007", "SCT", "Tissue"), Code("85756007", "SCT", "Tissue")

SERIES_NUMBER = 900
"""Beyond those that scanners give."""


def segmentation(
    frames: np.ndarray,
    places: Sequence[pydicom.Dataset],
    images: Sequence[pydicom.Dataset],
    structures: Sequence[str],
    model: str,
) -> pydicom.Dataset:
    """The object, of whose segments 1, 2, ... are `structures`, found in `frames` (F, R, C), which lie where the slices
    `places` do, by `model`.

    Of patient, study and frame of reference as `images`, the slices or the one image of several frames that the volume was
    made of. Frames without anything are left out of it.
    """
    import highdicom as hd

    version = importlib.metadata.version("medssl")
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model, version=version, family=codes.cid7162.ArtificialIntelligence
    )
    told: list[Any] = []
    for number, name in enumerate(structures, 1):
        category, kind = KNOWN.get(name.split()[0], TISSUE)
        told.append(
            hd.seg.SegmentDescription(
                segment_number=number, segment_label=name, segmented_property_category=category,
                segmented_property_type=kind, algorithm_type="AUTOMATIC", algorithm_identification=algorithm,
            )
        )  # fmt: skip
    lie = [hd.PlanePositionSequence("PATIENT", one.ImagePositionPatient) for one in places]
    return hd.seg.Segmentation(
        source_images=list(images), plane_positions=lie, pixel_array=frames.astype(np.uint8), segmentation_type="BINARY",
        segment_descriptions=told, series_instance_uid=hd.UID(), series_number=SERIES_NUMBER, sop_instance_uid=hd.UID(),
        instance_number=1, manufacturer="medssl", manufacturer_model_name=model[:64], software_versions=version,
        device_serial_number="none", content_label="SEGMENTATION",
    )  # fmt: skip
