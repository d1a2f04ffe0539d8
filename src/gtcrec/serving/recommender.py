"""A model of the registry as an estimator: `fit` takes interactions, `recommend` takes ids and returns a table."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from pydantic import ValidationError

from gtcrec import models
from gtcrec.data.features.item_encoders import ItemEncoders
from gtcrec.errors import ConfigError, config_error
from gtcrec.experiments.config import plain_value
from gtcrec.experiments.model_bundle import ModelBundle, write_bundle
from gtcrec.runtime.files import require_empty
from gtcrec.serving.answering import Answering
from gtcrec.serving.configured import Configured
from gtcrec.serving.inputs import as_list, as_split, check_new_items
from gtcrec.serving.new_items import encode_content
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.training import trainer
from gtcrec.training.trainer import Epoch, TrainConfig
from gtcrec.types import Dataset, Interactions, ItemFeatures, Split

__all__ = ["Recommender"]


class Recommender(Configured, Answering):
    """A recommender: any model of the registry, with the verbs fit, recommend, score, similar_items, explain, save.

    Hyperparameters are given by name, as `gtcrec models show NAME` lists them; none of them is data.

    Parameters
    ----------
    model : str
        A name of the registry, such as "gtc", "lightgcn" or "ease".
    preset : str
        A named set of hyperparameters of the model.
    seed : int
        Draws the first weights, the batches and the negatives; equal seeds give equal models.
    **hyperparameters
        Settings that differ from the preset's.

    Raises
    ------
    ConfigError
        For an unknown model, preset or hyperparameter (with the nearest known name), or a value out of range.

    Examples
    --------
    >>> import gtcrec
    >>> catalog = gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset
    >>> split = gtcrec.split(catalog, seed=0)
    >>> model = gtcrec.Recommender("itemknn").fit(split)
    >>> model.recommend("u0001", k=3).column_names
    ['user_id', 'item_id', 'rank', 'score']
    """

    def __init__(self, model: str = "gtc", *, preset: str = "default", seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(model, preset, seed, hyperparameters)
        self._trained: TrainedModel | None = None
        self.history: tuple[Epoch, ...] = ()

    def fit(
        self,
        train: Split | Dataset | Interactions,
        *,
        item_features: ItemFeatures | None = None,
        valid: Interactions | None = None,
        epochs: int | None = None,
        device: str = "auto",
        callbacks: Iterable[Callable[[Epoch], object]] = (),
        **training: Any,
    ) -> Self:
        """Train on interactions, from the start each time.

        Parameters
        ----------
        train : Split, Dataset or Interactions
            A split trains on its training part and stops by its validation part. A data set trains on all of its
            interactions. Interactions without ids make users and items known by their index.
        item_features : ItemFeatures, optional
            Content of the items; that of the split or data set if not given.
        valid : Interactions, optional
            Validation interactions over the same users and items. Training stops when they are predicted no better, and
            keeps the best epoch's weights.
        epochs : int, optional
            At most so many passes. Without validation interactions it must be given for a model that trains.
        device : str
            "auto" takes a GPU if torch sees one; else "cpu", "cuda" or "cuda:N".
        callbacks : iterable of callables
            Each is called with every `Epoch`: its number, mean losses, validation metrics, seconds.
        **training
            Other settings of training, such as `learning_rate`, `batch_size` and `patience`.

        Returns
        -------
        Recommender
            This recommender, fitted.

        Raises
        ------
        ConfigError
            For an unknown setting, or no way to know when to stop.
        DataError
            For content or validation interactions over other items or users.

        Examples
        --------
        >>> catalog = gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset
        >>> gtcrec.Recommender("bpr", embedding_dim=8).fit(catalog, epochs=2)
        Recommender('bpr', embedding_dim=8)
        """
        split, users, items, columns = as_split(train, item_features, valid)
        config = self._training(split, epochs, device, training)
        module = models.build_model(self.model, split.train, split.features, self.config, self.seed)
        state = trainer.Training(module, config)
        if state.optimizers and epochs is None and not len(split.valid):
            raise ConfigError(
                f"fit without validation interactions needs epochs=N: nothing else ends {self.model}'s training"
            )
        watchers = list(callbacks)
        for epoch in trainer.epochs(module, split, config, state):
            for watcher in watchers:
                watcher(epoch)
        settings = self.config.model_dump(mode="json")
        bundle = ModelBundle(self.model, settings, self.seed, users, items, split.train, split.features, 0, columns)
        self._trained = TrainedModel(bundle, lambda: module)
        self.history = tuple(state.history)
        return self

    def _training(self, split: Split, epochs: int | None, device: str, settings: Mapping[str, Any]) -> TrainConfig:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        preset = models.get_spec(self.model).presets[self.preset][1]
        limit = {} if epochs is None else {"epochs": epochs}
        try:
            return TrainConfig(**{**preset, **plain_value(settings), **limit, "device": device, "seed": self.seed})
        except ValidationError as error:
            raise config_error(error, "fit", TrainConfig.model_fields) from error

    def add_items(
        self, item_ids: Any, item_features: Mapping[str, Any] | None = None, *, item_columns: Any = None
    ) -> Self:
        """Take in items that came after training, by their content alone.

        What `item_features` lacks is encoded of `item_columns` as the content of the training was, if a data folder of
        `gtcrec data build` or `encode` was trained on.

        Parameters
        ----------
        item_ids : id or list of ids
            New ids.
        item_features : mapping, optional
            Modality -> array float [n, width], rows in the order of `item_ids`. A row of zeros says that the item lacks
            that modality.
        item_columns : pyarrow.Table or mapping, optional
            Their columns of the items table, such as title and price, in the same order; null where not given. Images
            are bytes, or paths inside the current folder.

        Returns
        -------
        Recommender
            This recommender; its lists may hold the new items from now on.

        Raises
        ------
        DataError
            For ids that are known already, content of another width or number, or columns of another type or length.
        RunError
            For a model that cannot score items without interactions, and columns that cannot be encoded.

        Examples
        --------
        >>> catalog = gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset
        >>> model = gtcrec.GTC(embedding_dim=8).fit(catalog, epochs=1, batch_size=256)
        >>> width = {m: x.shape[1] for m, x in catalog.features.values.items()}
        >>> model.add_items("new", {m: np.ones((1, w)) for m, w in width.items()}).score("u0001", "new").shape
        (1, 1)
        """
        trained, ids, content = self._fitted(), as_list(item_ids), item_features or {}
        columns = pa.table(item_columns) if isinstance(item_columns, Mapping) else item_columns
        if columns is not None and not set(trained.bundle.features.names) <= set(content):
            trained.require_adding()
            encoders = trained.bundle.encoders or ItemEncoders()
            content, _ = encode_content(trained.bundle, encoders.table(columns), content)
        features = check_new_items(ids, content, trained.bundle.items, trained.bundle.features)
        self._trained = trained.add_items(ids, features, columns)
        return self

    @property
    def bundle(self) -> ModelBundle:
        """The parts of the fitted model as its folder keeps them; raises `RunError` when it is not fitted."""
        return self._fitted().bundle

    def save(self, folder: str | Path) -> Path:
        """Write the fitted recommender to a new or empty folder.

        Weights (safetensors), settings (JSON), ids, the items table and seen items (Parquet, npz) and the items'
        content; no pickle. The manifest has the sha256 sum of each file.

        Parameters
        ----------
        folder : path

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        RunError
            If the folder holds something, or the recommender is not fitted.

        Examples
        --------
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> model = gtcrec.Recommender("ease").fit(gtcrec.data.make_catalog(n_users=60, n_items=40).dataset)
        >>> gtcrec.Recommender.load(model.save(folder)).recommend("u0001", k=1).num_rows
        1
        """
        trained, folder = self._fitted(), Path(folder)
        require_empty(folder)
        write_bundle(folder, trained.bundle, trained.module.state_dict(), trained.scorer)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, data: str | None = None, device: str | None = None) -> Self:
        """Open what `save` wrote, or a finished run folder.

        Parameters
        ----------
        folder : path
            A folder of `save`, or a run folder of `gtcrec train`.
        data : str, optional
            Where the run's data lie now; needed for run folders of version 0.1 alone, whose data have moved.
        device : str, optional
            "cpu", "cuda" or "cuda:N"; the CPU if not given.

        Returns
        -------
        Recommender

        Raises
        ------
        RunError
            If the folder is neither, is damaged, or its training has not ended.

        Examples
        --------
        See `save`.
        """
        trained = TrainedModel.load(Path(folder), data, device)
        bundle = trained.bundle
        made = cls.__new__(cls)
        Recommender.__init__(made, bundle.model, seed=bundle.seed, **bundle.config)
        made._trained = trained
        return made

    def _state(self) -> str:
        if self._trained is None:
            return "not fitted"
        bundle = self._trained.bundle
        sizes = f"{len(bundle.users):,} users and {len(bundle.items):,} items"
        return f"fitted on {len(bundle.seen):,} interactions of {sizes}"
