"""Item weights solved in blocks of items: resumable, by this process or by Ray's workers, to the same bytes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gtcrec import data, models
from gtcrec.experiments.config import RunConfig
from gtcrec.runtime.block_jobs import BlockFn, BlockResults, Executor, run_in_blocks
from gtcrec.types import Floats, Ints, SolvesItems

__all__ = ["solve_in_blocks"]

_BLOCK = 512  # items: about a second of work; a multiple of the items that are solved for at once


def solve_in_blocks(
    model: SolvesItems,
    config: RunConfig,
    fingerprint: str,
    folder: Path,
    executor: Executor | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Solve for a fresh model's item weights, which it takes over.

    `fingerprint` is that of the data. Blocks that are done lie in a hidden folder of `folder`, where an equal call that
    follows a killed one finds them. Workers of `executor` read the data and make the model anew, as `config` says.
    """
    items = pa.table({"item": np.arange(model.n_items)})
    settings = {"data": fingerprint, "model": config.model, "settings": dict(config.settings)}
    settings["split"], settings["preset"] = config.split.model_dump(mode="json"), config.preset

    def take(results: BlockResults, path: Path) -> None:
        parts = [(_matrix(block, "chosen"), _matrix(block, "weights")) for block in results]
        model.take_items(*(np.concatenate(side) for side in zip(*parts, strict=True)))
        path.touch()  # the weights go into the run's checkpoint, the job has no file

    out = folder / ".item_weights"
    run_in_blocks(items, _BLOCK, _MakeSolver(config, model), settings, out, take, executor, on_block)
    out.unlink()


@dataclass(frozen=True)
class _MakeSolver:
    """Makes the function that solves for a block of items; it travels to other processes as the configuration."""

    config: RunConfig
    model: SolvesItems | None = field(default=None, compare=False)

    def __call__(self) -> BlockFn:
        model = self.model or _fresh_model(self.config)

        def solve(items: pa.Table) -> pa.Table:
            chosen, weights = model.solve_items(items["item"].to_numpy().copy())
            width = chosen.shape[1]
            columns = {"chosen": (chosen.astype(np.int32), pa.int32()), "weights": (weights, pa.float32())}
            return pa.table(
                {
                    name: pa.FixedSizeListArray.from_arrays(pa.array(side.ravel(), type=kind), width)
                    for name, (side, kind) in columns.items()
                }
            )

        return solve

    def __reduce__(self) -> Any:
        return _MakeSolver, (self.config,)


def _fresh_model(config: RunConfig) -> SolvesItems:
    split = data.split(config.data.load(), config.split)
    settings = models.make_config(config.model, config.settings, config.preset)
    model = models.build_model(
        config.model, split.train, split.features, settings, config.train.seed, init_weights=False
    )
    assert isinstance(model, SolvesItems)
    return model


def _matrix(block: pa.Table, name: str) -> Ints | Floats:
    column = block[name].combine_chunks()
    flat: Ints | Floats = column.flatten().to_numpy()
    return flat.reshape(len(block), -1)
