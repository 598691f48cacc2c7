"""A synthetic hospital archive, written to disk as real files, with everything about it known.

`write_archive` makes DICOM (OCT, bpMRI, CT, radiographs), NPZ, NIfTI, label maps and a clinical table. The same
settings give the same bytes. The functions behind it (`oct_eye`, `pelvis`, `thorax`, ...) return the ground truth.

The glaucoma task carries a planted subgroup effect. Glaucoma of severity s (uniform in 0.25 to 1 a patient) thins the
retinal nerve fibre layer by 0.26 s everywhere and by up to 0.55 s more in one arcuate wedge, and widens the cup. In
Black patients (28 % of the cohort) all of this is multiplied by 0.30 and the speckle averages 2 looks instead of 4, so
that a sound model has a clearly lower AUROC there. Prevalence is one half in every group. Sex has no effect: the
negative control. Measured on the files of the default archive: a logistic regression on the mean depth profile (columns
aligned at the retina's surface, 10-fold by patient) has AUROC 0.89 over all, 0.68 in Black and 0.96 in other patients;
without the alignment 0.78, 0.62 and 0.83. The true thickness of 1000 invented patients reaches 0.86, 0.66 and 0.93.
`planted_gap=False` gives the same archive without the effect.
"""

from __future__ import annotations

from medssl.phantom.chest import Thorax, hounsfield, radiograph, thorax
from medssl.phantom.cohort import Person, people
from medssl.phantom.eye import EyeTruth, oct_eye
from medssl.phantom.follow_up import write_follow_up
from medssl.phantom.picture import contact_sheet
from medssl.phantom.prostate import Pelvis, labels, pelvis, t2w
from medssl.phantom.spoiled import SPOILED
from medssl.phantom.write import PhantomSettings, count, write_archive

__all__ = [
    "SPOILED",
    "EyeTruth",
    "Pelvis",
    "Person",
    "PhantomSettings",
    "Thorax",
    "contact_sheet",
    "count",
    "hounsfield",
    "labels",
    "oct_eye",
    "pelvis",
    "people",
    "radiograph",
    "t2w",
    "thorax",
    "write_archive",
    "write_follow_up",
]
