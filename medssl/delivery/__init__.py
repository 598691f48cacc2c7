"""What a model found, back in the hospital's own words: DICOM segmentations on the grid of the series it was found in."""

from __future__ import annotations

from medssl.delivery.deliver import deliver

__all__ = ["deliver"]
