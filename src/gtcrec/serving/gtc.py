"""GTC as an estimator, with its hyperparameters in signature and help."""

import inspect
from typing import Any

from gtcrec import models
from gtcrec.serving.recommender import Recommender

__all__ = ["GTC"]


class GTC(Recommender):
    """The project's own model: a user-aware diffusion filter of content and total correlation of views.

    A `Recommender` whose model is "gtc"; see there for the verbs.

    Parameters
    ----------
    preset : str
        "default", or another of `gtcrec models show gtc`.
    seed : int
        Draws the first weights, the batches and the negatives.
    {parameters}

    Raises
    ------
    ConfigError
        For an unknown preset or hyperparameter, or a value out of range.

    Examples
    --------
    >>> gtcrec.GTC(embedding_dim=32, num_layers=2)
    GTC(embedding_dim=32, num_layers=2)
    """

    def __init__(self, *, preset: str = "default", seed: int = 0, **hyperparameters: Any) -> None:
        hyperparameters.pop("model", None)  # what `get_params` of a GTC names
        super().__init__("gtc", preset=preset, seed=seed, **hyperparameters)


def _document(estimator: type[Recommender], model: str) -> None:
    """Give an estimator of one model the signature and the parameters of its hyperparameters, for editors and help."""
    fields = models.get_spec(model).config.model_fields
    fixed = [p for p in inspect.signature(estimator.__init__).parameters.values() if p.kind == p.KEYWORD_ONLY]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in fields.items()
    ]
    estimator.__signature__ = inspect.Signature([*fixed, *more])  # type: ignore[attr-defined]
    lines = [f"{name}\n        {field.description or 'see the method page'}" for name, field in fields.items()]
    estimator.__doc__ = (estimator.__doc__ or "").replace("{parameters}", "\n    ".join(lines))


_document(GTC, "gtc")
