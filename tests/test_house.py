"""The house stays a house: sizes of files, functions and folders, and the words of its identifiers."""

import ast
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "gtcrec"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]

# Words that this code base used to have names of, each with the field's word for the same. `\b` ends are implied.
REPLACED = {
    "liked": "positives (training), history (input), relevant (evaluation)",
    "met": "seen (items of a user) or warm (items)",
    "told": "conditioned",
    "wanted": "expected, planned, requested",
    "theirs": "a noun",
    "whoever": "a noun",
    "knockout": "modality_importance",
    "gather_rows_of": "rows_of",
    "neighbour": "neighbor",
    "neighbours": "neighbors",
    "als_unobserved": "unobserved_weight",
    "cards": "item_metadata",
    "plants": "ground_truth",
    "Workers": "ProcessGroup",
    "Wanted": "PlannedRun",
    "Drops": "FilterReport",
    "Gathered": "EncodedInteractions",
    "folded_user": "fold_in",
}
ALIASES = {"models/renamed.py", "models/gtc/config.py", "experiments/config.py"}  # where the old names of settings live


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_function_has_at_most_40_lines(path):
    """Docstrings do not count: they are for reading, not for running."""
    long = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            lines = node.end_lineno - node.lineno + 1 - docstring
            if lines > 40:
                long[node.name] = lines
    assert long == {}


def test_a_folder_has_at_most_12_modules():
    rooms = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in rooms.items() if count > 12} == {}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_replaced_words_do_not_come_back_as_identifiers(path):
    if str(path.relative_to(SOURCE)) in ALIASES:
        return
    with path.open() as file:
        names = {token.string for token in tokenize.generate_tokens(file.readline) if token.type == tokenize.NAME}
    found = {name: REPLACED[word] for name in names for word in REPLACED if re.fullmatch(rf"_*{word}(_\w+)?", name)}
    assert found == {}


def test_the_library_does_not_print():
    """Only the command line speaks; rich and typer are imported nowhere else."""
    speaking = re.compile(r"^\s*(print\(|import rich|from rich|import typer|from typer)", re.MULTILINE)
    inside = [path for path in FILES if path.relative_to(SOURCE).parts[0] != "cli"]
    assert [str(path) for path in inside if speaking.search(path.read_text())] == []
