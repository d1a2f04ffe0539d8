"""Small saved models to serve."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import gtcrec


@pytest.fixture(scope="session")
def catalog():
    return gtcrec.data.make_catalog(n_users=60, n_items=40, seed=0).dataset


@pytest.fixture(scope="session")
def save_model(catalog, tmp_path_factory) -> Callable[..., Path]:
    """Fit a model on the small catalogue and save it; each call makes a folder of its own."""

    def save(name="ease", **settings):
        training = {"epochs": 2} if name in ("bpr", "gtc") else {}
        model = gtcrec.Recommender(name, **settings).fit(catalog, **training)
        return model.save(tmp_path_factory.mktemp("model") / name)

    return save


@pytest.fixture(scope="session")
def ease(save_model) -> Path:
    return save_model("ease")


@pytest.fixture(scope="session")
def bpr(save_model) -> Path:
    return save_model("bpr", embedding_dim=8)


@pytest.fixture
def serve(tmp_path) -> Iterator[Callable[..., TestClient]]:
    """Start the application of a run in this process; each call has the same events unless told otherwise."""
    from gtcrec.serving.http import ServerConfig, create_app

    with ExitStack() as stack:

        def start(run, **settings):
            config = ServerConfig(run, **{"events": tmp_path / "events.db", "reload_seconds": 0, **settings})
            return stack.enter_context(TestClient(create_app(config), base_url="http://127.0.0.1"))

        yield start
