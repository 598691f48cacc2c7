"""Two models on the same patients: what differs, in which group, whether the gap between groups changed, and who paid."""

from medssl.evaluate.comparison.compare import compare

__all__ = ["compare"]
