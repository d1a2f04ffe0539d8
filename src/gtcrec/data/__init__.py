"""Data: reading catalogues, encoding, dividing and describing them, and drawing ones whose truth is known."""

from gtcrec.data.describe import describe
from gtcrec.data.features.extract import EncodeConfig, Encoded, encode
from gtcrec.data.formats.load import ReadConfig, load
from gtcrec.data.splits import SplitConfig, split
from gtcrec.data.synthetic.catalog import Planted, planted, write_catalogue

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
