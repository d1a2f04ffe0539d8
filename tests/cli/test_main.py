"""The command line: output, exit codes, interruption."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gtcrec.cli.main import execute, main

HEAVY = ("torch", "numpy", "scipy", "pyarrow", "matplotlib", "jinja2", "ray", "transformers", "PIL")
COMMANDS = (
    *(f"data {verb}" for verb in ("list", "download", "describe", "synthesize", "export")),
    *(
        "train",
        "resume",
        "evaluate",
        "recommend",
        "similar",
        "users",
        "serve",
        "export",
        "compare",
        "tune",
        "benchmark",
        "demo",
    ),
    *(f"analyze {verb}" for verb in ("ablation", "missing-modalities", "importance", "explain")),
    *("models", "models list", "models show", "runs", "runs list", "runs show", "runs report"),
)


def test_help_imports_nothing_heavy() -> None:
    lines = [[*command.split(), "--help"] for command in ("", "data", *COMMANDS)]
    code = f"""
import sys
from gtcrec.cli.main import execute
assert [execute(line) for line in {lines!r}] == [0] * {len(lines)}
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--history" in done.stdout


UNREAD = ("--help", "models", "data describe DATA --format json", "recommend RUN --all -k 40 --format csv")


@pytest.mark.parametrize("words", UNREAD)
def test_a_closed_pipe_is_quiet_and_has_the_exit_code_of_other_tools(words: str, data: Path, runs: Path) -> None:
    places = {"DATA": str(data), "RUN": str(runs / "popular")}
    line = [sys.executable, "-m", "gtcrec", *(places.get(word, word) for word in words.split())]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"GOMP_SPINCOUNT": "7"}, None), ({"OMP_WAIT_POLICY": "active"}, "active")],
)
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(given, policy, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gtcrec", "--version"])
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.setenv(name, "")  # so that the end of the test takes back what main sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    assert os.environ.get("KMP_BLOCKTIME") == (None if given else "0")


def test_importing_the_library_sets_neither_environment_nor_threads() -> None:
    code = """
import os, torch
before = dict(os.environ), torch.get_num_threads()
import gtcrec
from gtcrec.serving.recommender import Recommender
gtcrec.Recommender("bpr", embedding_dim=4).fit(
    gtcrec.data.make_catalog(n_users=20, n_items=30).dataset, epochs=1, device="cpu"
)
assert (dict(os.environ), torch.get_num_threads()) == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version_and_module_entry(option: str) -> None:
    done = subprocess.run([sys.executable, "-m", "gtcrec", option], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"gtcrec \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("train --out x", "missing argument DATA"),
        ("train shop bpr gtc --out x", "found 'gtc' after shop bpr"),
        ("recommend x", "expected one of --users or --user, --history, and --all"),
        ("recommend x --user u1 --all", "expected one of --users or --user, --history, and --all"),
        ("recommend x --user u1 --format parquet", "--format parquet needs --out FILE"),
        ("recommend x --user u1 -k 0", "Invalid value for '-k'"),
        ("compare x", "expected at least two run folders"),
    ],
)
def test_wrong_usage_exits_2(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", err).split())


def test_our_error_is_one_line_on_stderr_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["evaluate", "no/such/folder"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no/such/folder: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("line", ["--debug evaluate no/such", "evaluate no/such --debug"])
def test_debug_shows_the_traceback(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(line.split()) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "\nerror: no/such: " in err


def test_an_unexpected_exception_names_its_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("by [zero]")

    monkeypatch.setattr("gtcrec.experiments.run.Run.load", fail)
    assert execute(["evaluate", "x"]) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: by [zero]; run with --debug for the traceback\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [("gtcrec rec", {"recommend"}), ("gtcrec models sh", {"show"}), ("gtcrec train x --ep", {"--epochs"})],
)
def test_a_shell_completes_commands_and_options(words: str, expected: set[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "_GTCREC_COMPLETE": "complete_bash"}
    code = "from gtcrec.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60
    )
    assert set(done.stdout.split()) == expected


def test_an_error_of_the_system_names_the_path_given(
    runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "items.csv").write_text("")
    assert execute(["train", str(data), "popular", "--out", str(tmp_path / "items.csv" / "run")]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'items.csv'}: cannot be written: the folder cannot be made: File exists\n"
    )

    def fail(*args: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "lists" / ".x.csv.123.tmp"))

    monkeypatch.setattr("gtcrec.experiments.run.Run.load", fail)
    assert execute(["evaluate", "x"]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'lists' / 'x.csv'}: Permission denied\n"


@pytest.mark.parametrize("form", ["csv", "text"])
def test_output_is_utf_8_whatever_the_stream_says(form: str, tmp_path: Path) -> None:
    pairs = [f"u{u},\u54c1{(u + k) % 7}" for u in range(6) for k in range(3)]
    (tmp_path / "shop.csv").write_text("\n".join(["user_id,item_id", *pairs, ""]), encoding="utf-8")
    assert execute(["train", str(tmp_path / "shop.csv"), "popular", "--out", str(tmp_path / "run")]) == 0
    line = [sys.executable, "-m", "gtcrec", "recommend", str(tmp_path / "run"), "--user", "u1", "--format", form]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(line, capture_output=True, timeout=100, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\u54c1" in done.stdout.decode("utf-8")


def test_the_process_of_a_command_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("gtcrec.runtime.memory.keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr(sys, "argv", ["gtcrec", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert calls == ["kept"]
