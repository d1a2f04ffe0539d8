"""Reports as a browser lays them out: photos whole, asterisks at their numbers, curves as wide as a phone."""

import json
import shutil
from pathlib import Path

import pytest

import gtcrec
from gtcrec.evaluation.comparison import PairedDifference
from gtcrec.reporting.html import write_comparison_page, write_run_report
from gtcrec.runtime.files import renew_manifest


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose page shows a tall and a wide photo."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("run")
    shop = gtcrec.data.write_catalog(folder / "shop", n_users=60, n_items=40)
    run = gtcrec.train(shop, "bpr", folder / "bpr", epochs=3, embedding_dim=8).folder
    for name, size in (("tall.png", (100, 400)), ("wide.png", (400, 100))):
        Image.new("RGB", size, "teal").save(folder / name)
    examples = json.loads((run / "examples.json").read_text())
    for number, item in enumerate(examples["users"][0]["recommended"]):
        item["image"] = f"../{'tall' if number % 2 else 'wide'}.png"
    (run / "examples.json").write_text(json.dumps(examples))
    renew_manifest(run, ["examples.json"])
    return run


def open_page(browser, path: Path, width: int):
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("width", [390, 1000])
def test_photos_of_any_shape_are_whole(browser, run, width):
    page = open_page(browser, write_run_report(run), width)
    boxes = page.eval_on_selector_all(
        ".card .picture",
        """cards => cards.filter(card => card.querySelector("img")).map(card => {
            const [a, b] = [card, card.querySelector("img")].map(one => one.getBoundingClientRect());
            return [b.left - a.left, b.top - a.top, a.right - b.right, a.bottom - b.bottom, a.width / a.height];
        })""",
    )
    assert len(boxes) > 8
    assert min(min(box[:4]) for box in boxes) >= 0
    assert [box[4] for box in boxes] == pytest.approx([1.0] * len(boxes))


def test_an_asterisk_moves_with_its_number(browser, run, tmp_path):
    tests = [PairedDifference("other", "bpr", "recall@20", -0.02, (-0.03, -0.01), 0.0004, 0.0008)]
    page = open_page(browser, write_comparison_page([("bpr", run), ("other", run)], tests, tmp_path / "page.html"), 200)
    gaps = page.evaluate(
        """() => {
            const star = document.querySelector(".star"), number = star.previousElementSibling || star.parentElement;
            const box = star.closest(".wide"), range = document.createRange();
            const gap = () => {
                range.selectNodeContents(star.parentElement);
                return [star.getBoundingClientRect().left, range.getBoundingClientRect().left];
            };
            const before = gap();
            box.scrollLeft = 60;
            const after = gap();
            return [before[0] - before[1], after[0] - after[1], box.scrollLeft];
        }"""
    )
    assert gaps[2] > 0  # the table is wider than this window
    assert gaps[0] == pytest.approx(gaps[1])


def test_curves_fit_a_phone(browser, run):
    page = open_page(browser, write_run_report(run), 390)
    widths = page.eval_on_selector_all("figure img", "all => all.map(one => [one.width, one.naturalWidth])")
    assert len(widths) == 2
    assert all(shown <= 390 for shown, _ in widths)
    assert all(natural / shown < 2 for shown, natural in widths)  # its letters are at least half as large as drawn
    assert page.evaluate("document.documentElement.scrollWidth") == 390
