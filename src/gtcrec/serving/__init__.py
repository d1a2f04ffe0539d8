"""A trained model that answers: estimators, batch lists."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "gtc": ["GTC"],
        "recommender": ["Recommender"],
        "trained_model": ["TrainedModel"],
        "batch": ["write_all_lists"],
    },
)
