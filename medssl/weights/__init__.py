"""Weights in and out: a trunk as a folder that says what it is, in the forms of other tools, and from theirs."""

from medssl.weights.folder import Weights, read_weights, weights_of, write_weights
from medssl.weights.foreign import Adapting
from medssl.weights.intake import Intake, take_in
from medssl.weights.start import begin_with, origin_of, unlike

__all__ = [
    "Adapting",
    "Intake",
    "Weights",
    "begin_with",
    "origin_of",
    "read_weights",
    "take_in",
    "unlike",
    "weights_of",
    "write_weights",
]
