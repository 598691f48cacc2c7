"""Why a volume or its label map could not be prepared: a closed table, beside the one of the archive."""

from __future__ import annotations

REASONS = {
    "ADC_UNITS_UNKNOWN": "The values are in no unit in which diffusion is told; export the map in 1e-6 mm2/s.",
    "CONSTANT_IMAGE": "Every measured voxel has the same value, so there is nothing to learn; check the source.",
    "CRASHED": "The process that read it died, most likely in a decoder; convert the files or leave them out.",
    "FOV_MISMATCH": "ADC or high-b cover under 80 % of the T2w in mm, or have another frame of reference; align them.",
    "IO_ERROR": "The disk or network failed while reading, or allowed no reading; run again when it is well.",
    "MASK_IO_ERROR": "As IO_ERROR, of the label map; run again when it is well. The image is kept without it until then.",
    "MASK_MISPLACED": "The label map lies outside the image in millimetres; check its affine. The image is kept without it.",
    "MASK_MISSING": "The label map named by the card is not there. The image is kept without it.",
    "MASK_UNREADABLE": "The label map cannot be read; open it in a viewer. The image is kept without it.",
    "MASK_VALUES": "The label map has values other than whole numbers from 0 to 255. The image is kept without it.",
    "NOT_FLAT": "A radiograph with several frames is not one picture; export the frames on their own.",
    "NO_VALID_VOXELS": "No voxel was measured: all are padding or not a number; check the source.",
    "OUT_OF_MEMORY": "Preparing it takes more memory than a process may have; raise --memory-gb.",
    "PAIR_INCOMPLETE": "The study lacks a usable T2w, ADC or high-b series; prepare without groups to use it alone.",
    "PAIR_SPARE": "Another series of the study makes the case; this one is a repeat. Nothing to do.",
    "SOURCE_CHANGED": "A file is not as it was when the cohort was indexed; run medssl index again.",
    "SOURCE_MISSING": "A source file is not there any more; restore it or run medssl index again.",
    "SPACING_UNKNOWN": "The voxel size is unknown, so millimetres mean nothing; give it in the card or convert the files.",
    "TIMEOUT": "Preparing it took longer than it may; raise --seconds, or see whether the disk is well.",
    "TOO_LARGE": "The prepared grid would not fit in memory; check the voxel size or choose a coarser spacing.",
    "UNREADABLE": "The file is damaged or of an unexpected kind; open it in a viewer.",
}
"""Code -> what is wrong and what to do."""


def meaning(code: str) -> str:
    """What a code of this table or of the archive's means, and what to do."""
    from medssl.archive.reasons import REASONS as OF_THE_ARCHIVE

    return REASONS.get(code) or OF_THE_ARCHIVE[code]


class Unusable(Exception):
    """A volume or its label map cannot be prepared; `code` is one of REASONS. Carries nothing of the file's content."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"{self.code}: {REASONS[self.code]}"
