"""Where a network looks, and how what it sees is altered: crops in mm, one matrix, one interpolation, then intensity."""

from medssl.views.crops import Crops
from medssl.views.draw import Batch, Steps, Views
from medssl.views.intensity import Intensity

__all__ = ["Batch", "Crops", "Intensity", "Steps", "Views"]
