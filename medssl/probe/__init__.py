"""What a trunk learned, before anybody labels anything: anatomy, or the scanner?

features    the trunk's pooled features of a store's volumes
questions   what is asked of them, and of whom
neighbours  who a volume's nearest neighbours are, patients counted as one
linear      how far a line through the features gets with few labels
intervals   how sure these answers are
rank        how many directions the features use
health      whether filters are alive, kernels various, and tokens apart
atlas       features as points on a plane
clusters    pseudo-classes of training volumes, for the next pretraining
probe       all questions put to a run; findings: what the answers mean; page: the same with pictures
guard       whether a training has collapsed; online: looks at it while it runs
"""

from medssl.probe.findings import Findings
from medssl.probe.probe import Evidence, examine, probe

__all__ = ["Evidence", "Findings", "examine", "probe"]
