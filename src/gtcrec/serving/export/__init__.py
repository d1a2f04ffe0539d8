"""A trained model for other programs: vectors, an index, lists, ONNX, a model card."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "folder": ["ExportOptions", "export_model"],
        "model_card": ["model_card"],
        "onnx_scorer": ["scorer_graph"],
    },
)
