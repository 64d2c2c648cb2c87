"""Autoregressive models by the names they have always had here; each family has a file of its own beside this one.

`MADE` (`made.py`) takes any record; `PixelCNN` (`pixelcnn.py`) takes images on a finite set.
"""

from .made import MADE
from .pixelcnn import PixelCNN
from .sequential import enumerated

__all__ = ["MADE", "PixelCNN", "enumerated"]
