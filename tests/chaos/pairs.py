"""Which command is done while which other stands still at one of its file events."""

from collections.abc import Mapping
from pathlib import Path

from chaos.commands import Material
from chaos.events import Other
from chaos.stage import Command

ALIKE = (
    *("train, resume", "evaluate", "recommend --all", "data encode", "data build", "data convert", "tune"),
    *("data build --append", "items add", "export", "benchmark"),
)

SHARED = ("tune", "benchmark")  # studies, to which several processes add


def pairs(commands: Mapping[str, Command], made: Material) -> list[tuple[Command, Other]]:
    """Return pairs of a command and another that is done in the middle of it: the same, a reader, or another writer."""
    own = made.folder
    new = f"{own}/new_items.csv"

    def users(run: str) -> Other:
        return Other("recommend", lambda place: ["recommend", f"{place}/{run}", "--users", "u0001,u0042"], reads=True)

    def described(place: Path) -> list[str]:
        return ["data", "describe", f"{place}/built"]

    found = [(commands[name], Other(f"{name} again", commands[name].words, shares=name in SHARED)) for name in ALIKE]
    others = {
        "train, resume": [
            Other("stop", lambda place: ["stop", f"{place}/run"], harmless=False),
            Other("runs check --repair", lambda place: ["runs", "check", f"{place}/run", "--repair"]),
        ],
        "evaluate": [
            users("run"),
            Other("runs show", lambda place: ["runs", "show", f"{place}/run"], reads=True),
            Other("runs report", lambda place: ["runs", "report", f"{place}/run"]),
            Other("recommend --all", commands["recommend --all"].words, reads=True, harmless=False),
        ],
        "items add": [
            users("gtc"),
            Other("evaluate", lambda place: ["evaluate", f"{place}/gtc"], harmless=False),
        ],
        "evaluate gtc": [Other("items add", lambda place: ["items", "add", f"{place}/gtc", new], harmless=False)],
        "data build --append": [Other("data describe", described, reads=True)],
        "recommend --all": [
            Other(
                "recommend --all, longer lists", lambda place: [*commands["recommend --all"].words(place), "-k", "3"]
            ),
            Other("evaluate", lambda place: ["evaluate", f"{place}/run"], harmless=False),
        ],
    }
    return found + [(commands[name], other) for name, several in others.items() for other in several]
