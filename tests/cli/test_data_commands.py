"""`gtcrec data build` and `encode`: settings from a file, from KEY=VALUE and from options."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gtcrec.cli.main import execute

ITEMS = "item_id,title,genre,price\na,Red mug,kitchen,3\nb,Blue mug,kitchen,4\nc,Green tea,food,5\nd,Lamp,home,9\n"
PAIRS = "user_id,item_id,rating\n" + "".join(
    f"u{u},{'abcd'[(u + k) % 4]},{4 + k % 2}\n" for u in range(6) for k in (0, 1, 2)
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".npy")}


def test_a_file_keys_and_options_build_the_same_folder(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--items", str(shop / "items.csv"), "--interactions", str(shop / "pairs.csv")]
    options = ["--core", "0", "--tags", "genre", "--number", "price", "--split", "leave_one_out", "--seed", "3"]
    keys = ["core=0", "tags=genre", "numbers=price", "split.strategy=leave_one_out", "split.seed=3"]
    (shop / "build.yaml").write_text(
        f"items: {shop / 'items.csv'}\ninteractions: {shop / 'pairs.csv'}\ncore: 5\ntags: [genre]\nnumbers: price\n"
        "split:\n  strategy: leave_one_out\n"
    )
    for name, line in (
        ("options", [*paths, *options]),
        ("keys", [*keys, *paths]),
        ("file", ["--config", str(shop / "build.yaml"), "core=0", "split.seed=3"]),
    ):
        assert execute(["data", "build", *line, "--out", str(shop / "new" / name)]) == 0, capsys.readouterr().err
    assert "x_feat" not in files_of(shop / "new/keys")
    assert set(files_of(shop / "new/keys")) == {
        "interactions.parquet",
        "items.parquet",
        "left_out_interactions.parquet",
        "left_out_items.parquet",
        "numbers_feat.npy",
        "tags_feat.npy",
    }
    assert files_of(shop / "new/options") == files_of(shop / "new/keys") == files_of(shop / "new/file")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--interactions", "p.csv", "--out", "x"], 2, "missing option --items"),
        (["--items", "i.csv", "--out", "x", "stray"], 2, "expected KEY=VALUE, found 'stray'"),
        (["txt=title"], 1, "error: unknown key 'txt' (did you mean 'text'?); known: user, item, "),
        (["--text-encodr", "x"], 1, "error: unknown key 'text_encodr' (did you mean 'text_encoder'?)"),
        (["--config", "nothing.yaml"], 1, "error: nothing.yaml: cannot be read: "),
    ],
)
def test_wrong_usage_of_build(words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "build", *words]) == code
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_build_file_must_hold_keys_that_are_known(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data", "build", "--items", "i.csv", "--interactions", "p.csv", "--out", "x", "--config"]
    for text, message in (("[1]", "expected keys and values, found list"), ("colour: 3", "colour")):
        (shop / "build.yaml").write_text(text)
        assert execute([*line, str(shop / "build.yaml")]) == 1
        assert message in capsys.readouterr().err


def test_a_name_that_looks_like_a_number_stays_text(shop: Path) -> None:
    (shop / "items.csv").write_text(ITEMS.replace("item_id", "0"))
    (shop / "pairs.csv").write_text(PAIRS.replace("item_id", "1"))
    line = ["--items", str(shop / "items.csv"), "--interactions", str(shop / "pairs.csv"), "--out", str(shop / "out")]
    assert execute(["data", "build", *line, "item=1", "items_item=0", "core=0"]) == 0


def test_help_lists_the_keys_of_a_configuration() -> None:
    code = """
import sys
from gtcrec.cli.main import execute
assert execute(["data", "build", "--help"]) == 0
assert execute(["data", "encode", "--help"]) == 0
assert execute(["data", "convert", "--help"]) == 0
assert not {"torch", "ray", "transformers", "PIL", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    build, encode, convert = re.split("Usage: gtcrec data (?:encode|convert)", done.stdout)
    for words in (" --items ", " --interactions ", " --out ", " --config ", "[KEY=VALUE]...", "split.strategy"):
        assert words in build
    assert "a folder or a name on the hub; all-MiniLM-L6-v2 if not given" in build
    assert "--text-encoder" not in build
    assert "columns of text, joined by a blank" in encode
    assert "pattern of the files of interactions" in convert


def test_encode_takes_keys_and_one_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data", "encode", str(shop / "items.csv"), "--out", str(shop / "n_feat.npy")]
    assert execute([*line, "numbers=price"]) == 0
    assert json.loads((shop / "n_feat.json").read_text())
    assert "4 of 4 items have a vector of 2 numbers" in capsys.readouterr().err
    assert execute([*line, "other.csv", "numbers=price"]) == 2
    assert "expected one table of items" in capsys.readouterr().err


def test_inspect_prints_counts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "describe", str(data), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["users"], facts["items"], facts["name"]) == (80, 50, "shop")
    assert execute(["data", "describe", str(data)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^users +80$", out, re.MULTILINE)
    assert re.search(r"^modalities +width +present", out, re.MULTILINE)


def test_make_synthetic_prints_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["data", "synthesize", str(tmp_path / "s"), "--users", "60", "--items", "40"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 's'}\n"
    assert (tmp_path / "s" / "interactions.csv").is_file()


def append_line(shop: Path, *more: str) -> list[str]:
    (shop / "day.csv").write_text("user_id,item_id,rating\nnew,a,5\nnew,b,4\n")
    return ["data", "build", "--append", "--interactions", str(shop / "day.csv"), "--out", str(shop / "out"), *more]


def test_append_adds_a_day_to_a_built_folder(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["--items", str(shop / "items.csv"), "--interactions", str(shop / "pairs.csv"), "--out", str(shop / "out")]
    assert execute(["data", "build", *paths, "core=0", "tags=genre", "split.seed=3"]) == 0
    assert "appended" not in capsys.readouterr().out
    assert execute(append_line(shop, "core=0", "split.seed=3")) == 0
    assert "| users that came in | 1 |" in capsys.readouterr().out
    assert execute(append_line(shop)) == 0
    assert "these tables were appended already" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["core=2"], "core: --append goes on as the folder was built, with 0, found 2"),
        (["split.seed=4"], "split.seed: --append goes on as the folder was built, with 3, found 4"),
        (["--out", "nowhere"], "nowhere: expected a folder of `gtcrec data build`, found another or none"),
    ],
)
def test_append_refuses_other_settings(
    shop: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    paths = ["--items", str(shop / "items.csv"), "--interactions", str(shop / "pairs.csv"), "--out", str(shop / "out")]
    assert execute(["data", "build", *paths, "core=0", "tags=genre", "split.seed=3"]) == 0
    capsys.readouterr()
    assert execute(append_line(shop, *more)) == 1
    assert message in " ".join(capsys.readouterr().err.split())
