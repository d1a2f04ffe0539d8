"""What the documentation names exists."""

import re
from pathlib import Path

import pytest

from gtcrec import models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


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
    places = "GTC|Views|ContentProjection|ProjectedContent|LikedContent|LikedFilter|content|graph|losses|Schedule"
    code = {name.split(".")[-1] for name in re.findall(rf"`((?:{places})\.(?!py)\w+|ddim_filter)`", page)}
    assert len(code) > 8
    assert [name for name in code if not re.search(rf"(def|class) {name}\b", source)] == []


def test_the_readme_lists_every_model():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert set(rows) == set(models.MODELS)
