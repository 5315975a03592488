"""The page is one file: small, the same for the same inputs, safe to open, without what it has no data for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from regrow.lab.report.inputs import Inputs, read_inputs
from regrow.lab.report.page import render, write_page
from regrow.lab.report.runs import Run

RESULTS = Path(__file__).resolve().parents[3] / "results"


def without_library(page: str) -> str:
    """What stands before the scripts."""
    return page.partition("<script>")[0]


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", without_library(page))


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    return render(read_inputs([runs]), "regrow report runs")


def test_runs_have_their_sections(page: str):
    assert headings(page) == [
        "Overview",
        "Training: digits-mlp",
        "Comparison",
        "Where the weights went: sparse-momentum 10 %",
        "Settings",
    ]
    assert "regrow train digits-mlp --density 0.1 --set epochs=3" in page
    assert "regrow report runs" in page


def test_sections_without_data_are_left_out():
    page = render(read_inputs([RESULTS / "layers.json"]), "regrow report results/layers.json")
    assert headings(page) == ["Speed and memory"]


def test_every_chart_has_a_place_and_every_figure_a_caption(page: str):
    places = re.findall(r'id="chart-(\d+)"', page)
    assert places == [str(i) for i in range(len(places))]
    assert len(places) > 10
    assert page.count("<figure") == page.count("</figure>")
    assert not re.findall(r"<figcaption>\s*</figcaption>", page)


def test_nothing_is_fetched(page: str):
    assert "default-src 'none'" in page
    assert not re.findall(r"""<[^>]+ (?:src|href)=["'](?!data:|#)""", without_library(page))


def test_ten_runs_of_two_hundred_epochs_stay_under_three_megabytes(ten_runs: Callable[[int], Inputs]):
    assert 1_000_000 < len(render(ten_runs(16), "regrow report table").encode()) < 3_000_000


def test_the_same_inputs_give_the_same_bytes_whole_or_not_at_all(runs: Path, tmp_path: Path, page: str):
    out = tmp_path / "report.html"
    write_page(read_inputs([runs]), out, "regrow report runs")
    assert out.read_text() == page
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_names_from_files_are_text_and_no_code():
    evil = "</script><script>alert(1)</script>"
    metrics = [
        {"epoch": 1, "step": 1, "validation_error": 5.0, "density": 1.0, "flop_density": 1.0, "train_seconds": 1.0}
    ]
    settings = {"recipe": "r", "method": evil, "density": 0.1, "seed": 0}
    run = Run(Path("run"), {"settings": settings, "command": evil}, None, metrics, [], [], label=evil)
    assert evil not in render(Inputs(runs=[run]), evil)


def test_a_live_page_loads_itself_anew(runs: Path):
    inputs = read_inputs([runs / "dense"])
    assert 'data-refresh="10"' in render(inputs, "regrow report run --live", refresh=10)
    assert "<body>" in render(inputs, "regrow report run")
