"""Where a model looked: class activation maps of a store's volumes as pictures and NIfTI, and checks of the maps."""

from __future__ import annotations

from medssl.explain.explain import cases_of, explain
from medssl.explain.look import Way

__all__ = ["Way", "cases_of", "explain"]
