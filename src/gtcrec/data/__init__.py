"""Data: reading catalogues, dividing them, describing them, and drawing ones whose truth is known."""

from gtcrec.data.describe import describe
from gtcrec.data.read import ReadConfig, load
from gtcrec.data.split import SplitConfig, split
from gtcrec.data.synthetic import Planted, planted, write_catalogue

__all__ = ["Planted", "ReadConfig", "SplitConfig", "describe", "load", "planted", "split", "write_catalogue"]
