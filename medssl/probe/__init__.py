"""What a trunk learned, before anybody labels anything: anatomy, or the scanner?

features    the trunk's pooled features of a store's volumes
neighbours  who a volume's nearest neighbours are, patients counted as one
linear      how far a line through the features gets with few labels
rank        how many directions the features use, and whether filters are dead
"""

from medssl.probe.probe import Findings, probe

__all__ = ["Findings", "probe"]
