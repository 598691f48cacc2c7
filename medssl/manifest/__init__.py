"""The manifest: what an archive holds, who its patients are, and who is trained on.

COHORT/instances.parquet  a row for each file
COHORT/volumes.parquet    a row for each volume, and for each series left out, with its reason
COHORT/patients.parquet   a row for each patient
COHORT/labels.parquet     a row for each label of a volume
COHORT/receipt.json       counts
COHORT/summary.html       what is in the archive, what was lost and why; summary.json and summary/*.csv say the same
COHORT/phi/               the key of the pseudonyms and the paths of the files: the only identifiable part
"""

from medssl.manifest.card import Card, read_card
from medssl.manifest.clinical import with_table
from medssl.manifest.cohort import Cohort, read_cohort
from medssl.manifest.index import index, read_share
from medssl.manifest.receipt import Receipt, Unmatched
from medssl.manifest.summary import write_summary

__all__ = [
    "Card",
    "Cohort",
    "Receipt",
    "Unmatched",
    "index",
    "read_card",
    "read_cohort",
    "read_share",
    "with_table",
    "write_summary",
]
