"""`gtcrec items add`."""

import csv
from pathlib import Path

import pytest

import gtcrec
from gtcrec.cli.main import execute
from gtcrec.data import write_catalog
from gtcrec.data.build.pipeline import BuildConfig, build


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose data lack the last item of the shop's table."""
    shop = write_catalog(tmp_path / "shop", n_users=60, n_items=40)
    with (shop / "items.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, chosen in (("first", rows[:-1]), ("all", rows)):
        with (shop / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(chosen)
    config = BuildConfig(category=("kind",), numbers=("price",), core=0)
    built = build(shop / "first.csv", shop / "interactions.csv", tmp_path / "built", config)
    assert built["kept"]["items"] == 39
    gtcrec.train(tmp_path / "built", "l3ae", tmp_path / "run")
    return tmp_path / "run"


def test_the_command_adds_the_new_items_of_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run.parent / "shop" / "all.csv"
    assert execute(["items", "add", str(run), str(table)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "1 items added (1 with category, 1 with numbers); 39 were known already" in said
    (run.parent / "ids.txt").write_text("p0039\n")
    asked = ["--items", str(run.parent / "ids.txt"), "--format", "csv"]
    assert execute(["recommend", str(run), "--user", "u0001", *asked]) == 0
    assert "p0039" in capsys.readouterr().out


def test_the_command_warns_of_missing_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run.parent / "few.csv"
    table.write_text("item_id,price\nx1,3\n")
    assert execute(["items", "add", str(run), str(table)]) == 0
    assert "has no column 'kind', of category" in " ".join(capsys.readouterr().err.split())


def test_what_is_no_run_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["items", "add", str(run.parent / "built"), str(run.parent / "few.csv")]) == 1
    assert "neither a run folder nor a saved recommender" in " ".join(capsys.readouterr().err.split())
