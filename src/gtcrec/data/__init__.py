"""Data: reading catalogues, encoding, dividing and describing them, and drawing ones whose truth is known."""

from gtcrec.data.describe import describe
from gtcrec.data.encode import EncodeConfig, Encoded, encode
from gtcrec.data.read import ReadConfig, load
from gtcrec.data.split import SplitConfig, split
from gtcrec.data.synthetic import Planted, planted, write_catalogue

__all__ = [
    "EncodeConfig",
    "Encoded",
    "Planted",
    "ReadConfig",
    "SplitConfig",
    "describe",
    "encode",
    "load",
    "planted",
    "split",
    "write_catalogue",
]
