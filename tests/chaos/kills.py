"""SIGKILL at random moments, and two processes at once, over the commands that write."""

import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos.stage import Command, Stage, Tally, require, require_refusal, run, run_whole, start
from gtcrec.errors import GtcrecError

KILLS_A_ROUND = 6
PATIENCE = 120  # seconds


def kill_at_random(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Kill a command a few times at random moments, look at what is left, then do the command whole."""
    took = stage.seconds(one)

    def attack(place: Path) -> None:
        one.prepare(place)
        for _ in range(KILLS_A_ROUND):
            code, said = run(one.words(place), draw.uniform(0.3, 1.0) * took)
            if code == 0:
                break
            require(code == -signal.SIGKILL, f"exit code {code}: {said[-300:]}")
            tally.tried += 1
            one.check(place, False)
            if is_done(one, place):  # the kill came when all was written
                return
        else:
            run_whole(one.words(place))
        one.check(place, True)

    _attempt(stage, tally, one.name, attack)


def start_two(stage: Stage, one: Command, draw: random.Random, tally: Tally) -> None:
    """Start a command twice, one a little later: each does its work or is refused in words, and the result is whole."""
    took = stage.seconds(one)

    def attack(place: Path) -> None:
        one.prepare(place)
        tally.tried += 1
        with start(one.words(place)) as first:
            time.sleep(draw.uniform(0, 0.8) * took)
            with start(one.words(place)) as second:
                said = [process.communicate(timeout=PATIENCE)[1] for process in (first, second)]
        codes = [process.returncode for process in (first, second)]
        for code, text in zip(codes, said, strict=True):
            require_refusal(code, text)
        require(0 in codes, f"both failed: {said[0][-300:]} {said[1][-300:]}")
        one.check(place, True)

    _attempt(stage, tally, one.name, attack)


def is_done(one: Command, place: Path) -> bool:
    """Return whether a command that was killed had done its work."""
    try:
        one.check(place, True)
    except (GtcrecError, OSError):
        return False
    return True


def _attempt(stage: Stage, tally: Tally, name: str, attack: Callable[[Path], None]) -> None:
    """Attack in a folder of its own, which stays if anything fails."""
    place = Path(tempfile.mkdtemp(dir=stage.folder, prefix="attack-"))
    try:
        attack(place)
    except (GtcrecError, OSError) as error:
        tally.failures.append(f"{name}: {place}: {error}")
    else:
        shutil.rmtree(place)
