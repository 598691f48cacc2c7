"""Weights in and out: a trunk as a folder that says what it is, in the forms of other tools, and from theirs."""

from medssl.weights.bundle import write_bundle
from medssl.weights.folder import Weights, read_weights, weights_of, write_weights
from medssl.weights.foreign import Adapting
from medssl.weights.intake import Intake, take_in
from medssl.weights.nnunet import write_nnunet
from medssl.weights.onnx import write_onnx
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
    "write_bundle",
    "write_nnunet",
    "write_onnx",
    "write_weights",
]
