"""Why a file or a series is left out: a closed table of codes. A reason is an answer; a guess is not."""

from __future__ import annotations

REASONS = {
    "AMBIGUOUS_STACK": "Slices share positions and no tag tells them apart; export the acquisitions as separate series.",
    "ANGIOGRAPHY": "An angiography or fluoroscopy; not read.",
    "ANIMAL": "The subject is an animal; the cohort is of people.",
    "BAD_GEOMETRY": "Orientation, position or spacing is missing or impossible; export the series again.",
    "BURNED_IN": "The pixels carry burned-in text, which may name the patient; clean them first.",
    "COLOR_IMAGE": "A colour picture; only grey values are read.",
    "CONCATENATION_INCOMPLETE": "A file of an image in several files (a concatenation) is missing; fetch the series again.",
    "CRASHED": "Reading the file ended the process that read it; fetch the file again.",
    "DECODER_MISSING": "No installed decoder reads this transfer syntax; see `pip install medssl`'s decoders.",
    "DECODING_FAILED": "The compressed pixels cannot be decoded; fetch the file again.",
    "DEFLATE_BOMB": "The deflated data set grows to far more than its picture needs; do not open it elsewhere either.",
    "DEFLATE_DAMAGED": "The deflated data set is cut short or damaged; fetch the file again.",
    "DENTAL": "A dental radiograph or reconstruction; not read.",
    "DERIVED_OR_SC": "A secondary capture, localizer, projection or report page, not an acquisition.",
    "DICOM_DIRECTORY": "A DICOMDIR, which lists files and holds no image; the files themselves are read.",
    "DOCUMENT": "A PDF or other document; no image.",
    "DOSE_PAGE": "A page or report of the radiation dose, not an acquisition.",
    "DUP_INSTANCE": "The same instance is there more than once; one copy is kept.",
    "DUP_UID_CONFLICT": "Two different files claim the same instance; find out which one is right.",
    "EMPTY_FILE": "The file has no bytes.",
    "ENCAPSULATED_DOCUMENT": "A document in a DICOM file (PDF, CDA, a model to print); no image.",
    "EYE_MEASUREMENT": "A measurement of an eye (refraction, visual field, topography); bring it in as a table.",
    "EYE_PHOTO": "A photograph of an eye; OCT volumes are read.",
    "FILE_NAME": "The name of the file or of its folder is not text (UTF-8); rename it.",
    "FILE_TRUNCATED": "The file is shorter than its header says; fetch it again.",
    "GANTRY_TILT": "The slices are sheared (tilted gantry); kept with its true, sheared geometry.",
    "GZIP_DAMAGED": "The gzip stream is cut short or fails its checksum; fetch the file again.",
    "HU_SUSPECT": "A CT without rescale intercept and without values near air; the numbers are not Hounsfield units.",
    "IO_ERROR": "The disk or network failed while the file was read; index again when it is well.",
    "KEY_OBJECTS": "A list of selected images; no image itself.",
    "LOCALIZER_OR_TOO_FEW": "Fewer slices in this orientation than a volume needs; most likely a localizer.",
    "MISSING_SLICE": "A slice is missing between others; fetch the series again.",
    "MOSAIC_UNSUPPORTED": "Siemens mosaic: many slices in one picture; convert it with dcm2niix.",
    "NDIM": "More than three dimensions; split time points, channels or b-values into files of their own.",
    "NESTED_TOO_DEEP": "Sequences within sequences, deeper than real files have them; fetch it from another source.",
    "NONUNIFORM_SPACING": "Slices are not equally far apart; resample them with a tool that knows their positions.",
    "NON_IMAGE_SOP": "A DICOM object that is not an image (report, plan, waveform, presentation state).",
    "NOT_AN_ARCHIVE_FILE": "Not a medical image (text, table, PDF, archive, executable).",
    "NOT_IN_CARD": "The file's path does not fit the card's `path`; mend the card if the file is an image of the set.",
    "NO_PIXELS": "The header has no picture with it.",
    "NPZ_LAYOUT": "The NPZ file has no three-dimensional oct_bscans of plain numbers.",
    "NPZ_PICKLE": "The NPZ file holds Python objects, which may run code when loaded; save plain arrays.",
    "NUCLEAR_MEDICINE": "A nuclear medicine image (scintigraphy, SPECT); not read.",
    "OCT_EN_FACE": "A picture or analysis computed from an OCT volume; the volume itself is read.",
    "OCT_NON_RASTER": "Not a raster of parallel, equally spaced B-scans (radial, circular or single line scan).",
    "OCT_VENDOR_FORMAT": "A format of one vendor without a public description; export as DICOM, .vol or XML.",
    "OUT_OF_MEMORY": "Reading the file takes more memory than a process may have; raise --memory-gb.",
    "PACKED_ARCHIVE": "A packed archive (zip, gzip, tar, 7z, rar); unpack it first.",
    "PAIRED_HEADER": "A header whose data lie in another file; save as one file (.nii, .mha, .nrrd).",
    "PARAMETRIC_MAP": "A parametric map computed from images; the images themselves are read.",
    "PATHOLOGY": "A microscope or whole-slide image; not read.",
    "PART_OF_SCAN": "A picture that is one slice of a scan described by another file; it is read with that scan.",
    "PATIENT_CONFLICT": "One series with two patients; its identifiers were overwritten by a tool.",
    "PET_LEFT_OUT": "PET is left out by policy: uptake in SUV needs dose and time, which are not read.",
    "PHANTOM": "A phantom or quality-control subject, not a patient.",
    "PIXELDATA_TRUNCATED": "The pixel data stop before the picture is complete; fetch the file again.",
    "PREAMBLE_NONZERO": "The 128 bytes before the header are not empty and could be a program; they are never copied.",
    "PRESENTATION_STATE": "How an image was displayed; no image itself.",
    "RADIOTHERAPY": "A radiotherapy plan, dose, structure set or treatment image; not read.",
    "RAW_DATA": "Raw data of a scanner; the images made of them are read.",
    "SCREEN_SAVE": "A saved screen, which may show the patient's name; the acquisition itself is read.",
    "SEGMENTATION": "A segmentation: a source of labels, never an input; name it in the card.",
    "SINGLE_SLICE": "One slice is not a volume.",
    "SOURCE_MISSING": "A source file is not there any more; restore it or run medssl index again.",
    "SPECTROSCOPY": "Spectra, not an image.",
    "STRUCTURED_REPORT": "A structured report; bring its findings in as a table.",
    "SYSTEM_FILE": "Left by an operating system or an export program (Thumbs.db, .DS_Store, VERSION); no image.",
    "TAG_INVALID": "A number in the header could not be understood and counts as missing.",
    "TIMEOUT": "Reading the file took longer than it may; raise --seconds, or see whether the disk is well.",
    "TOMOSYNTHESIS": "A breast tomosynthesis; two-dimensional mammograms are read.",
    "TOO_LARGE": "The header claims more voxels than the limit or than the file can hold.",
    "ULTRASOUND": "An ultrasound; not read.",
    "UNREADABLE": "The file cannot be parsed; open it in a viewer or fetch it again.",
    "UNSUPPORTED_SOP": "An image of a kind that medssl does not read (ultrasound, pathology, angiography, PET).",
    "VISIBLE_LIGHT": "A photograph or endoscopy; not read.",
    "WAVEFORM": "An ECG or another curve, not an image.",
    "XFORM_CONFLICT": "The two affines of the NIfTI header (sform and qform) disagree; decide which one is right.",
    "XFORM_UNKNOWN": "The NIfTI or NRRD header does not say where left and right are; kept, with its voxel size only.",
    "XML_ENTITIES": "XML that defines entities, which can blow up memory or read other files; export it again.",
    "XML_PICTURE_MISSING": "A picture that the XML names is not beside it or cannot be read; export the scan again.",
}
"""Code -> what is wrong and what to do."""


class Refusal(ValueError):
    """A file or series that cannot be used: `code` of REASONS, the `thing` it is about and the offending `value`."""

    def __init__(self, code: str, thing: str, value: str = "") -> None:
        super().__init__(code, thing, value)  # all of them, so that it survives pickling between processes
        self.code, self.thing, self.value = code, thing, value

    def __str__(self) -> str:
        value = f" ({self.value})" if self.value else ""
        return f"{self.thing}: {self.code}{value}. {REASONS[self.code]}"
