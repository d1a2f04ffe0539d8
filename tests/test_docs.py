"""What the documentation names exists, what is generated is up to date, and code blocks run as written."""

import contextlib
import csv
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import gtcrec
from gtcrec import models
from gtcrec.cli.main import OLD_WORDS, execute
from gtcrec.experiments.benchmark.plan import read_file
from gtcrec.models.gtc.config import GTCConfig
from gtcrec.models.renamed import RENAMED
from helpers.shop import write_raw_shop

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_method_page_names_tests_and_functions_that_exist():
    page = (ROOT / "docs/method.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 10
    assert [name for name in named if f"def {name}(" not in tests] == []
    classes = "GTC|GraphEncoder|ContentProjection|LatentFilter|(?:Modality)?InterestFilter|Schedule"
    places = f"{classes}|inference|neighbors|graph|losses"
    code = {name.split(".")[-1] for name in re.findall(rf"`((?:{places})\.(?!py)\w+|ddim_filter)`", page)}
    assert len(code) > 8
    assert [name for name in code if not re.search(rf"(def|class) {name}\b", source)] == []


def test_the_readme_lists_every_model():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert set(rows) == set(models.list_models())


def test_the_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_what_make_docs_writes(reference):
    assert (ROOT / "docs" / "settings.md").read_text() == reference.settings_page()
    readme = (ROOT / "README.md").read_text()
    assert readme == reference.with_table(readme, "models", reference.models_table())


def test_every_setting_says_what_it_means(reference):
    rows = re.findall(r"^\| (`\w+`) \| .* \|  \|$", reference.settings_page(), flags=re.MULTILINE)
    assert rows == []


def code_blocks(page):
    """The fenced blocks of a page: language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def raw_shop(tmp_path_factory):
    """A folder with raw tables and pictures, of more columns than the README needs, and two items that came later."""
    folder = tmp_path_factory.mktemp("raw")
    write_raw_shop(folder)
    clicks, items = (read_csv(folder / name) for name in ("clicks.csv", "items.csv"))
    orders = [{**row, "rating": "5" if place % 9 else "2"} for place, row in enumerate(clicks)]
    write_csv(folder / "orders.csv", orders)
    kinds = [row["title"].split() for row in items]
    more = [{"categories": f"{a}|{c}", "brand": b, "price": f"{len(a + b)}.5"} for a, b, c, *_ in kinds]
    items = [row | columns for row, columns in zip(items, more, strict=True)]
    write_csv(folder / "items.csv", items)
    later = [{**row, "item": name} for row, name in zip(items, ("mug-8", "tea-3"), strict=False)]
    write_csv(folder / "new_items.csv", later)
    visits = [("zoe", "mug-8"), ("zoe", "mug-7"), ("zoe", "tea-2"), ("ann", "mug-8"), ("bob", "mug-8")]
    last = max(int(row["timestamp"]) for row in clicks)
    days = [{"user": user, "item": item, "timestamp": last + k} for k, (user, item) in enumerate(visits, 1)]
    write_csv(folder / "new_clicks.csv", days)
    return folder


@pytest.fixture(scope="module")
def trained_shop(raw_shop, tmp_path_factory):
    """The same folder with a built data/shop, a trained runs/gtc and lists that other programs might have written."""
    folder = tmp_path_factory.mktemp("trained") / "shop"
    shutil.copytree(raw_shop, folder)
    with contextlib.chdir(folder):
        (build, *_) = (block for language, block in code_blocks(ROOT / "README.md") if language == "sh")
        run_commands(build.splitlines()[0])
        run_commands("gtcrec train data/shop gtc epochs=2 --out runs/gtc")
        split = gtcrec.split(gtcrec.load_dataset("data/shop"))
        for name, model in {"theirs.run": "popular", "others.run": "itemknn"}.items():
            rows = gtcrec.Recommender(model).fit(split).recommend(k=20).to_pylist()
            lines = [f"{row['user_id']} Q0 {row['item_id']} {row['rank']} {-row['rank']} {model}\n" for row in rows]
            Path(name).write_text("".join(lines))
    return folder


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Where the blocks of a page run; returns a function that fills it from another folder."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda folder: shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def run_commands(block):
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "gtcrec"
            assert execute(words[1:]) == 0, line


def run_blocks(page):
    """Run the commands and the Python of a page in their order; a first line `# FILE` says that a block is a file."""
    names = {}
    for language, block in code_blocks(page):
        if file := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            Path(file[1]).write_text(block)
        if language == "sh":
            run_commands(block)
        elif language == "python":
            exec(compile(block, page.name, "exec"), names)


def test_the_blocks_of_the_readme_run_as_written(raw_shop, workplace, tmp_path, capsys):
    workplace(raw_shop)
    run_blocks(ROOT / "README.md")
    assert "ann" in capsys.readouterr().out
    assert (tmp_path / "models" / "gtc" / "manifest.json").exists()


def test_the_blocks_of_own_data_run_from_raw_tables(raw_shop, workplace, tmp_path):
    workplace(raw_shop)
    run_blocks(ROOT / "docs" / "own-data.md")
    assert (tmp_path / "runs" / "gtc" / "manifest.json").exists()


RUNNABLE = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name != "own-data.md" and {language for language, _ in code_blocks(page)} & {"sh", "python"}
]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_as_written(page, trained_shop, workplace):
    workplace(trained_shop)
    run_blocks(page)


def test_every_block_says_what_it_is():
    languages = {language for page in (ROOT / "docs").glob("*.md") for language, _ in code_blocks(page)}
    assert languages <= {"sh", "python", "yaml", "text"}


def test_each_yaml_block_of_benchmarking_is_a_benchmark(tmp_path):
    blocks = [block for language, block in code_blocks(ROOT / "docs" / "benchmarking.md") if language == "yaml"]
    for block in blocks:
        (tmp_path / "bench.yaml").write_text(block)
        assert read_file(tmp_path / "bench.yaml").base == "gtc"
    assert len(blocks) == 2


def test_the_changelog_names_every_old_word_and_setting():
    page = (ROOT / "CHANGELOG.md").read_text()
    old = [*OLD_WORDS, *RENAMED, *GTCConfig.removed_settings]
    assert [name for name in old if f"`{name}`" not in page and f"`{name} " not in page] == []
