"""The models, and how a name and settings become one. Importing this package imports no torch."""

from gtcrec.models.registry import build_model, complete_settings, get_spec, list_models, make_config

__all__ = ["build_model", "complete_settings", "get_spec", "list_models", "make_config"]
