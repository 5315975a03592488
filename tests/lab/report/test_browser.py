"""The page in a real browser: everything is drawn, nothing is complained of, at the width of a desk and of a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from regrow.lab.report.inputs import Board, Inputs, read_inputs
from regrow.lab.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")

RESULTS = Path(__file__).resolve().parents[3] / "results"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
PATIENCE = 240_000
"""Milliseconds, for a machine that does much else."""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium; apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=list(QUIET), timeout=PATIENCE)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(
    ten_runs: Callable[[int], Inputs], varied_board: Board, runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Everything that a report can show at once: ten runs, two more with masks, varied settings, files of benches."""
    others = read_inputs([runs, *(RESULTS / name for name in ("layers.json", "steps.json", "run.json"))])
    grid = ten_runs(5)
    inputs = Inputs([*others.runs, *grid.runs], [*grid.boards, varied_board, *others.boards])
    inputs.layers, inputs.steps, inputs.epochs = others.layers, others.steps, others.epochs
    file = tmp_path_factory.mktemp("page") / "report.html"
    write_page(inputs, file, "regrow report table")
    return file


@pytest.fixture(scope="module", params=[1280, 390], ids=["desk", "phone"])
def opened(browser: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page after all is drawn, what it complained of, and what it asked for."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(page_file.as_uri(), timeout=PATIENCE)
    page.wait_for_selector("html[data-ready=true]", timeout=PATIENCE)
    yield page, complaints, asked
    page.close()


def test_all_is_drawn_without_a_complaint_and_without_the_network(opened: tuple[Any, list[str], list[str]]):
    page, complaints, asked = opened
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    drawn = ", ".join(f"svg .mark-{kind}.role-mark path" for kind in ("rect", "line", "area", "symbol"))
    marks = page.evaluate(f"[...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('{drawn}').length)")
    assert len(marks) > 40
    assert all(number > 0 for number in marks)
    pictures = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(pictures) == 2
    assert all(width > 0 for width in pictures)


def test_nothing_is_wider_than_the_screen(opened: tuple[Any, list[str], list[str]]):
    page = opened[0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    edges = page.evaluate("[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right)")
    assert max(edges) <= page.viewport_size["width"] + 1


def test_a_click_on_a_head_sorts(opened: tuple[Any, list[str], list[str]]):
    page = opened[0]
    table = page.locator("#comparison table.sortable").first
    head = table.locator("th button", has_text="test error")
    column = head.evaluate("button => button.parentElement.cellIndex")

    def errors() -> list[float]:
        texts = table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
        return [float(text.split()[0]) for text in texts]

    before = sorted(errors())
    head.click()
    assert errors() == before
    head.click()
    assert errors() == before[::-1]
    assert table.locator("th[aria-sort=descending]").count() == 1
