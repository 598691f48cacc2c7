"""What was found, as a DICOM structured report (TID 1500): for each segment its volume and how sure the model is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

IMAGING = Code("363679005", "SCT", "Imaging procedure")

SERIES_NUMBER = 901


def structured_report(
    segmentation: pydicom.Dataset,
    slices: Sequence[pydicom.Dataset],
    volumes_ml: Sequence[float],
    confidences: Sequence[float],
    model: str,
) -> pydicom.Dataset:
    """The report on the segments 1, 2, ... of `segmentation`, with `volumes_ml` and, where they are known (not nan),
    `confidences` from 0 to 1, which are told in percent.
    """
    import highdicom as hd

    observer = hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), manufacturer_name="medssl", model_name=model)
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=observer)
    )
    series, groups = hd.sr.SourceSeriesForSegmentation(slices[0].SeriesInstanceUID), []
    for number, (volume, confidence) in enumerate(zip(volumes_ml, confidences, strict=True), 1):
        told = segmentation.get_segment_description(number)
        measured = [hd.sr.Measurement(codes.SCT.Volume, volume, Code("ml", "UCUM", "milliliter"))]
        if not np.isnan(confidence):
            measured.append(hd.sr.Measurement(codes.DCM.Probability, 100 * confidence, codes.UCUM.Percent))
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), told.SegmentLabel),
                referenced_segment=hd.sr.ReferencedSegment(
                    segmentation.SOPClassUID, segmentation.SOPInstanceUID, number, source_series=series
                ),
                finding_type=told.segmented_property_type,
                measurements=measured,
            )
        )
    return hd.sr.Comprehensive3DSR(
        evidence=[segmentation, *slices], series_instance_uid=hd.UID(), series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="medssl", is_complete=True,
        content=hd.sr.MeasurementReport(context, IMAGING, imaging_measurements=groups),
    )  # fmt: skip
