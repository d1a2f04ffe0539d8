"""The server keeps what its OpenAPI description promises, whatever schemathesis asks."""

import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = shutil.which("st", path=str(Path(sys.executable).parent))


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="schemathesis is not installed")
@pytest.mark.parametrize("name", ["ease", "gtc"])
def test_no_request_gets_a_5xx_or_an_answer_other_than_described(save_model, name, tmp_path):
    """Refused are only requests whose meaning is wrong: an unknown column, users together with a history."""
    import uvicorn

    from gtcrec.serving.http import ServerConfig, create_app

    run = save_model(name, **({"embedding_dim": 8} if name == "gtc" else {}))
    app = create_app(ServerConfig(run, events=tmp_path / "events.db", reload_seconds=0))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}/openapi.json"
            options = ["--max-examples", "60", "--seed", "1", "--no-color", "--phases", "coverage,fuzzing"]
            options += ["--exclude-checks", "positive_data_acceptance"]  # a request may be well formed and mean nothing
            command = [PROGRAM, "run", address, *options]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        finally:
            server.should_exit = True
            thread.join()
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 9" in done.stdout
