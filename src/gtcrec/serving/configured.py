"""What an estimator is made of before it sees data: a model's name, a preset, a seed and hyperparameters."""

import html
from collections.abc import Mapping
from typing import Any, Self

from gtcrec import models
from gtcrec.experiments.config import plain_value

__all__ = ["Configured"]


class Configured:
    """An estimator's settings: checked when it is made, read by `get_params`, shown by its repr."""

    def __init__(self, model: str, preset: str, seed: int, hyperparameters: Mapping[str, Any]) -> None:
        self.model = model
        self.preset = preset
        self.seed = seed
        self.hyperparameters = {name: plain_value(value) for name, value in hyperparameters.items()}
        self.config = models.make_config(model, self.hyperparameters, preset)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all settings by name: model, preset, seed and every hyperparameter with its value.

        Parameters
        ----------
        deep : bool
            Has no effect; scikit-learn passes it.

        Returns
        -------
        dict
            What `from_params` makes an equal recommender of.

        Examples
        --------
        >>> gtcrec.Recommender("itemknn").get_params()["model"]
        'itemknn'
        """
        return {"model": self.model, "preset": self.preset, "seed": self.seed, **self.config.model_dump(mode="json")}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Return an unfitted recommender with the settings that `get_params` returned.

        Parameters
        ----------
        params : mapping
            Settings by name.

        Returns
        -------
        Recommender

        Raises
        ------
        ConfigError
            For an unknown setting, or a value out of range.

        Examples
        --------
        >>> gtcrec.Recommender.from_params({"model": "ease", "reg": 100.0})
        Recommender('ease', reg=100.0)
        """
        return cls(**dict(params))

    def _state(self) -> str:
        """Say whether the estimator is fitted, and on what."""
        return "not fitted"

    def __repr__(self) -> str:
        named = {"preset": self.preset, "seed": self.seed, **self.hyperparameters}
        defaults = {"preset": "default", "seed": 0}
        words = [f"{name}={value!r}" for name, value in named.items() if defaults.get(name) != value]
        if type(self).__name__.lower() != self.model:
            words.insert(0, repr(self.model))
        return f"{type(self).__name__}({', '.join(words)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
            for name, value in self.config.model_dump(mode="json").items()
        )
        head = f"<b>{html.escape(repr(self))}</b><br>{html.escape(self._state())}"
        return f"{head}<details><summary>hyperparameters</summary><table>{rows}</table></details>"
