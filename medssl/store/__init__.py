"""The store: prepared volumes on disk, one of the two doors between the rooms. Written once, read by position.

store.json                        settings, versions, digest of the cohort, checksums of the tables; written last
volumes.parquet                   the cohort's rows of the volumes, and what was done to each
fingerprint.json                  sizes, voxels and intensities by modality and site; what `medssl plan` reads
patients.parquet, labels.parquet  as in the cohort
arrays/VOLUME_ID/image            one Zarr v3 shard, float16, (C, I, J, K)
arrays/VOLUME_ID/mask, valid      likewise, uint8: the label map; where a voxel was measured, unless all were
arrays/VOLUME_ID/row.json         what was done to this volume; makes an interrupted run resumable
"""

from medssl.store.integrity import Verdict, verify
from medssl.store.layout import Damaged
from medssl.store.prepare import Receipt, prepare, prepare_share
from medssl.store.reader import Store, open_store
from medssl.store.settings import Preparation

__all__ = ["Damaged", "Preparation", "Receipt", "Store", "Verdict", "open_store", "prepare", "prepare_share", "verify"]
