"""A small run with pictures, served in this process and on a port."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

import gtcrec
from gtcrec.serving.http import ServerConfig, create_app


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data `shop` and its runs `gtc` and `bpr`."""
    folder = tmp_path_factory.mktemp("page")
    data = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=50)
    settings = {"embedding_dim": 16, "content_dim": 16, "hidden_dim": 16, "batch_size": 256, "epochs": 2}
    gtcrec.train(data, "gtc", folder / "runs" / "gtc", **settings)
    gtcrec.train(data, "bpr", folder / "runs" / "bpr", embedding_dim=8, epochs=1)
    return folder


@pytest.fixture
def app_of(tmp_path: Path) -> Callable[..., object]:
    """Return a maker of applications; each has events of its own."""

    def make(run: Path, **settings: object) -> object:
        return create_app(ServerConfig(run, **{"events": tmp_path / "events.db", "reload_seconds": 0, **settings}))

    return make


@pytest.fixture
def serve(app_of: Callable[..., object]) -> Iterator[Callable[..., TestClient]]:
    with ExitStack() as stack:
        yield lambda run, **settings: stack.enter_context(
            TestClient(app_of(run, **settings), base_url="http://127.0.0.1")
        )


@pytest.fixture
def listening(shop: Path, app_of: Callable[..., object]) -> Iterator[SimpleNamespace]:
    """Serve both runs on a free port, in a thread; yield the address and the application."""
    import uvicorn

    app = app_of(shop / "runs" / "gtc", variants=((shop / "runs" / "bpr", 0.3),))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", app=app)
    server.should_exit = True
    thread.join()
