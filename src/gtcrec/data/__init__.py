"""Data: reading, splitting and describing data sets, encoding content, and catalogs whose truth is known."""

from gtcrec.data.datasets import load_dataset
from gtcrec.data.describe import describe
from gtcrec.data.features.extract import EncodeConfig, Encoded, encode
from gtcrec.data.formats.load import ReadConfig, load
from gtcrec.data.splits import SplitConfig, split
from gtcrec.data.synthetic.catalog import SyntheticCatalog, make_catalog, write_catalog

__all__ = [
    "EncodeConfig",
    "Encoded",
    "ReadConfig",
    "SplitConfig",
    "SyntheticCatalog",
    "describe",
    "encode",
    "load",
    "load_dataset",
    "make_catalog",
    "split",
    "write_catalog",
]
