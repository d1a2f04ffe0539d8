"""The page as people use it, in a browser: a list, a part switched off, a click, the figures; and axe's findings."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gtcrec.runtime.locks import hold_lock
from gtcrec.serving.http.experiments import assign

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
PAGES = ("/", "/search?q=lamp", "/user?id={user}", "/user?id={user}&off=image", "/item?id=p0003&user={user}",
         "/compare?user={user}&run=a&other_run=b", "/map", "/training", "/experiment", "/user?id=nobody")  # fmt: skip


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def user(listening: SimpleNamespace) -> str:
    """A user of the first run."""
    known = listening.app.state.variants[0].live.current().recommender.user_ids
    return next(one for one in known if assign(one, [0.7, 0.3]) == 0)


def new_page(browser: Any, **settings: Any) -> tuple[Any, list[str]]:
    """Open a page and a list that its scripts' errors and refused loads come into."""
    page = browser.new_context(**settings).new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    return page, problems


def items_of(page: Any, selector: str) -> list[str]:
    return page.eval_on_selector_all(f"{selector} [data-id]", "all => all.map(one => one.dataset.id)")


def figures_of(page: Any, address: str) -> dict[str, str]:
    page.goto(f"{address}/experiment")
    found = page.eval_on_selector_all(
        "[data-variant=a] [data-figure]", "all => all.map(one => [one.dataset.figure, one.textContent])"
    )
    return dict(found)


def test_a_part_switched_off_changes_the_list_and_a_click_takes_the_item_off_it(
    browser: Any, listening: SimpleNamespace, user: str
) -> None:
    page, problems = new_page(browser)
    before = figures_of(page, listening.url)
    page.goto(listening.url)
    page.get_by_role("searchbox").fill(user)
    page.get_by_role("link", name=user, exact=True).click()
    page.wait_for_selector("#list .card")
    pictures = page.locator("#list .card .open img")
    pictures.first.wait_for()
    assert pictures.count() > 10
    assert pictures.first.evaluate("one => one.decode().then(() => one.naturalWidth)") == 48

    whole = items_of(page, "#list")
    page.get_by_role("switch", name="image").click()
    page.wait_for_selector("#changed [data-id]")
    assert items_of(page, "#list") == whole
    changed = items_of(page, "#changed")
    assert changed != whole
    assert page.get_by_role("switch", name="image").get_attribute("aria-checked") == "false"
    names = check_sums(page, "#list")
    assert {"identity", "image", "text"} < names
    assert check_sums(page, "#changed") == names - {"image"}
    page.get_by_role("switch", name="image").press("Space")
    page.wait_for_selector("#list .card")
    assert check_sums(page, "#list") == names

    page.locator("#list .card .open").nth(2).click()
    page.wait_for_selector(".item")
    assert listening.app.state.events.user_items(user) == [whole[2]]
    page.get_by_role("link", name=user).first.click()
    page.wait_for_selector("#list .card")
    assert whole[2] not in items_of(page, "#list")
    assert items_of(page, "#list")[:4] == [*whole[:2], *whole[3:5]]
    page.get_by_role("button", name="Hide").first.click()
    page.wait_for_function("first => document.querySelector('#list .card').dataset.id !== first", arg=whole[0])
    after = figures_of(page, listening.url)
    assert (before["clicked"], after["clicked"]) == ("0", "1")
    assert int(after["lists"]) > int(before["lists"])
    assert problems == []


def check_sums(page: Any, selector: str) -> set[str]:
    """Check that the parts shown add up to each score; return their names, the same of all."""
    rows = page.eval_on_selector_all(
        f"{selector} .sum",
        """all => all.map(one => [
            [...one.querySelectorAll("tbody tr")].map(row => row.querySelector("th").textContent),
            [...one.querySelectorAll("[data-part]")].map(part => Number(part.dataset.part)),
            Number(one.querySelector("[data-score]").dataset.score)])""",
    )
    assert len(rows) > 10
    names = set(rows[0][0])
    for found, parts, score in rows:
        assert set(found) == names
        assert sum(parts) == pytest.approx(score, abs=1e-5)
    return names


@pytest.mark.parametrize("settings", [
    {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
], ids=["desktop, light", "phone, dark"])  # fmt: skip
def test_no_page_has_a_serious_finding_of_axe_or_is_wider_than_the_screen(
    browser: Any, listening: SimpleNamespace, user: str, settings: dict[str, Any]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page, problems = new_page(browser, **settings, reduced_motion="reduce")
    serious = {}
    for path in PAGES:
        page.goto(listening.url + path.format(user=user))
        if path == "/map":
            page.wait_for_selector(".drawing", state="detached")
        page.wait_for_load_state("networkidle")
        found = axe.Axe().run(page).response
        assert len(found["passes"]) > 10
        bad = [
            (one["id"], one["nodes"][0]["html"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if bad or too_wide > 0:
            serious[path] = (bad, too_wide)
    assert serious == {}
    assert [problem for problem in problems if "404" not in problem] == []


def test_the_map_is_wandered_by_keys_and_lists_what_lies_at_its_centre(
    browser: Any, listening: SimpleNamespace
) -> None:
    page, problems = new_page(browser)
    page.goto(f"{listening.url}/map?color=kind")
    page.wait_for_selector(".drawing", state="detached")
    assert page.locator("#color").input_value() == "kind"
    assert page.locator(".legend li").count() == 8

    def centre() -> list[str]:
        return page.eval_on_selector_all("#near b", "all => all.map(one => one.textContent)")

    page.wait_for_timeout(400)
    first = centre()
    page.locator("canvas").focus()
    for key in ("+", "+", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    page.wait_for_function("first => document.querySelector('#near b').textContent !== first", arg=first[0])
    assert centre() != first
    page.locator("#near a").first.click()
    page.wait_for_selector(".item")
    assert problems == []


def test_pages_work_without_script(browser: Any, listening: SimpleNamespace, user: str) -> None:
    page, _ = new_page(browser, java_script_enabled=False)
    page.goto(f"{listening.url}/user?id={user}")
    page.get_by_role("switch", name="text").click()
    assert page.locator("#changed .row").count() == 20
    page.get_by_label("Only where").fill("price < 20")
    page.get_by_role("button", name="Filter").click()
    assert "off=text" in page.url
    assert "where=price" in page.url
    assert json.loads(page.context.request.get(f"{listening.url}/health/ready").text())["status"] == "ready"


def test_curves_of_a_running_training_grow_as_one_looks(browser: Any, listening: SimpleNamespace, shop: Path) -> None:
    run = shop / "runs" / "next"
    run.mkdir()
    (run / "config.yaml").write_text("model: bpr\n")
    history = run / "history.jsonl"
    lines = [json.dumps({"epoch": n, "losses": {"bpr": 1 / n}, "valid": {"ndcg@20": n / 10}}) for n in (1, 2, 3)]
    history.write_text("\n".join(lines[:2]))
    page, problems = new_page(browser)
    try:
        with hold_lock(run):
            page.goto(f"{listening.url}/training?run=next")
            assert "In training: 2 epochs so far." in page.locator("#live").inner_text()
            history.write_text("\n".join(lines))
            page.get_by_text("In training: 3 epochs so far.").wait_for(timeout=20_000)
            assert page.locator("figcaption", has_text="ndcg@20").inner_text().split()[-1] == "0.3000"
    finally:
        shutil.rmtree(run)
    assert problems == []


def test_the_page_of_the_api_shows_every_address(browser: Any, listening: SimpleNamespace) -> None:
    page, problems = new_page(browser)
    page.goto(f"{listening.url}/docs")
    page.wait_for_selector("#swagger .opblock")
    shown = page.eval_on_selector_all("#swagger .opblock-summary-path", "all => all.map(one => one.dataset.path)")
    assert set(shown) == set(listening.app.openapi()["paths"])
    assert problems == []


def test_space_and_back_keys_keep_the_address_true(browser: Any, listening: SimpleNamespace, user: str) -> None:
    page, _ = new_page(browser)
    page.goto(f"{listening.url}/user?id={user}")
    page.get_by_role("switch", name="text").click()
    page.wait_for_selector("#changed")
    assert page.url.endswith("&off=text")
    page.go_back()
    page.wait_for_selector("#list .card")
    assert page.locator("#changed").count() == 0
    page.reload()
    assert page.locator("#list .card").count() > 0
