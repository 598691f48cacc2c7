"""What a model was trained on, and what lies outside of it: volumes that are not answered, and those that look unlike."""

from medssl.domain.density import BOUND, Density, read_density, unlike, write_density
from medssl.domain.ranges import Ranges, read_ranges, write_ranges
from medssl.domain.refusals import Refused, refused, write_refused

__all__ = [
    "BOUND",
    "Density",
    "Ranges",
    "Refused",
    "read_density",
    "read_ranges",
    "refused",
    "unlike",
    "write_density",
    "write_ranges",
    "write_refused",
]
