"""The scorer as an ONNX graph: users' vectors in, scores and best items out.

The graph is put together node by node, not traced, so that no example decides its sizes. `write_scorer` checks it by
onnxruntime against the model.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gtcrec.errors import ConfigError, RunError
from gtcrec.runtime.files import atomic_path
from gtcrec.serving.export.vector_files import item_matrix, user_matrix
from gtcrec.serving.trained_model import TrainedModel
from gtcrec.types import Floats

__all__ = ["check_scorer", "scorer_graph", "write_scorer"]

_LARGEST = 2**31 - 2**20  # bytes of a protobuf file, less what the graph itself takes
_BATCHES = (1, 3, 64)
_OPSET, _IR_VERSION = 17, 8  # of 2022: every runtime in use reads them


def scorer_graph(items: Floats) -> Any:
    """Return the ONNX model of a scorer by inner product.

    Parameters
    ----------
    items : numpy.ndarray
        float32 [n_items, d].

    Returns
    -------
    onnx.ModelProto
        Inputs `user_vectors` float32 [users, d] and `k` int64 [1]; outputs `scores` float32 [users, n_items],
        `top_scores` float32 and `top_items` int64 [users, k], best first, ties by ascending item.

    Raises
    ------
    ConfigError
        Without onnx, and for items that no ONNX file can hold.

    Examples
    --------
    >>> graph = scorer_graph(np.ones((4, 2), dtype=np.float32)).graph
    >>> [one.name for one in graph.output]
    ['scores', 'top_scores', 'top_items']
    """
    if items.nbytes > _LARGEST:
        raise ConfigError(
            f"an ONNX file holds at most 2 GiB, found item vectors of {items.nbytes / 2**30:.1f} GiB; export vectors"
        )
    onnx = _import("onnx")
    helper, number, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    n_items, dim = items.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["user_vectors", "item_columns"], ["scores"]),
            helper.make_node("TopK", ["scores", "k"], ["top_scores", "top_items"], axis=1, largest=1, sorted=1),
        ],
        "scorer",
        [
            helper.make_tensor_value_info("user_vectors", number, ["users", dim]),
            helper.make_tensor_value_info("k", whole, [1]),
        ],
        [
            helper.make_tensor_value_info("scores", number, ["users", n_items]),
            helper.make_tensor_value_info("top_scores", number, ["users", "length"]),
            helper.make_tensor_value_info("top_items", whole, ["users", "length"]),
        ],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(items.T), "item_columns")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="gtcrec")
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def write_scorer(model: TrainedModel, folder: Path) -> None:
    """Write `scorer.onnx` once onnxruntime has answered with it as the model does.

    Raises `ConfigError` without onnx or onnxruntime, `RunError` for a model without vectors or answers that differ.
    """
    users, items = user_matrix(model), item_matrix(model)
    with atomic_path(folder / "scorer.onnx") as temporary:
        temporary.write_bytes(scorer_graph(items).SerializeToString())
        check_scorer(temporary, users, items)


def check_scorer(path: Path, users: Floats, items: Floats) -> None:
    """Raise `RunError` unless onnxruntime scores and ranks as the vectors do, in batches of 1, 3 and 64 users."""
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    k = min(10, len(items))
    for size in _BATCHES:
        rows = users[np.arange(size) % len(users)]
        scores, best, places = session.run(None, {"user_vectors": rows, "k": np.array([k])})
        expected = rows @ items.T
        room = 1e-5 * (np.abs(rows) @ np.abs(items).T).max() + 1e-30  # what summing in another order may change
        ranked = np.take_along_axis(expected, places, axis=1)
        order = -np.sort(-expected, axis=1)[:, :k]
        for what, found, right in (("scores", scores, expected), ("top_scores", best, order), ("ranks", ranked, order)):
            if found.shape != right.shape or not np.allclose(found, right, rtol=0, atol=room):
                raise RunError(f"{path.name}: {what} of {size} users by onnxruntime differ from the model's")


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f'{name} is not installed; pip install "gtcrec[onnx]"') from error
