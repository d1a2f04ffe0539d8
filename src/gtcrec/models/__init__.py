"""The models, and how a name and settings become one."""

from gtcrec.models.base import Entry
from gtcrec.models.registry import MODELS, build, find, settings

__all__ = ["MODELS", "Entry", "build", "find", "settings"]
