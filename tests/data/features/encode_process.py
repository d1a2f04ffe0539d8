"""Encodings that are killed at each of their steps on disk, for test_reuse.py: python encode_process.py FOLDER.

Each is a child process: after a first call that makes a matrix, a second one for a changed table dies at its n-th
step, and a third one finishes. Prints for each n the texts that the last two encoded and the matrix, as JSON.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from gtcrec.data.features.extract import EncodeConfig, encode

with suppress(ImportError):  # pyarrow imports it where it is, which would take each child half a second
    import pandas  # noqa: F401

BEFORE = ["a", "bb", "ccc", "dddd"]
AFTER = ["ccc", "eeeee", "a", "ffffff", "ggggggg", "hhhhhhhh", "iiiiiiiii"]


def lengths(texts):
    with Path("asked").open("a") as stream:
        stream.write("".join(f"{text}\n" for text in texts))
    return np.array([[len(text)] for text in texts])


def call(texts: list[str]) -> None:
    Path("items.csv").write_text("\n".join(["title", *texts, ""]))
    encode("items.csv", "text_feat.npy", EncodeConfig(text=("title",), encoder="lengths", batch=2), lengths)


def call_killed(step: int) -> None:
    left = [step]

    def counted(do: Callable) -> Callable:
        def act(*given):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*given)

        return act

    Path.replace, shutil.rmtree = counted(Path.replace), counted(shutil.rmtree)
    call(AFTER)


def in_child(work: Callable, *given) -> int:
    """Return the exit status of a child that does the work; it starts without the threads that pyarrow makes."""
    child = os.fork()
    if not child:
        work(*given)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    os.fsync = lambda descriptor: None  # a killed process loses nothing by that, and it takes most of the time
    (folder / "0").mkdir()
    os.chdir(folder / "0")
    in_child(call, BEFORE)
    Path("asked").unlink()
    found, status, step = [], -signal.SIGKILL, 0
    while status == -signal.SIGKILL:
        step += 1
        shutil.copytree(folder / "0", folder / str(step))
        os.chdir(folder / str(step))
        status = in_child(call_killed, step)
        again = in_child(call, AFTER)
        left = sorted(path.name for path in Path().iterdir())
        x = np.load("text_feat.npy")[:, 0].tolist()
        found.append({"status": [status, again], "asked": Path("asked").read_text().split(), "x": x, "files": left})
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
