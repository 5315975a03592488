"""The numbers in the charts are those of the files."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image

from regrow.lab.report.active_sets import read_active_sets
from regrow.lab.report.figures_comparison import comparison_figures
from regrow.lab.report.figures_features import feature_figures
from regrow.lab.report.figures_speed import speed_figures
from regrow.lab.report.figures_topology import UPDATES, histogram_figures, topology_figures
from regrow.lab.report.inputs import Board, Inputs, read_inputs
from regrow.lab.report.palette import styles
from regrow.lab.report.pictures import DARK, mask_figures
from regrow.lab.report.runs import Run
from regrow.lab.report.tables import settings_tables

RESULTS = Path(__file__).resolve().parents[3] / "results"


@pytest.fixture(scope="module")
def sparse(runs: Path) -> Run:
    return read_inputs([runs / "sparse-momentum"]).runs[0]


def test_active_weights_sum_to_the_same_from_the_first_step_to_the_last(sparse: Run):
    chart = topology_figures(sparse)[0].charts[0]
    steps = sorted({row["step"] for row in chart.rows})
    assert (steps[0], steps[-1]) == (0, sparse.metrics[-1]["step"])
    for step in steps:
        rows = [row for row in chart.rows if row["step"] == step]
        assert [row["layer"] for row in rows] == ["fc1", "fc2", "fc3"]
        assert sum(row["active"] for row in rows) == 5020
    start = {row["layer"]: row["active"] for row in chart.rows if row["step"] == 0}
    assert start == {"fc1": 1920, "fc2": 3000, "fc3": 100}  # uniform: a tenth of each


def test_densities_are_of_the_positions(sparse: Run):
    rows = topology_figures(sparse)[1].charts[0].rows
    assert rows[0]["density"] == pytest.approx(10.0)
    assert rows[-1]["density"] == pytest.approx(rows[-1]["active"] / 10, rel=1e-4)


def test_many_updates_are_thinned_and_the_caption_says_so(ten_runs: Callable[[int], Inputs]):
    figures = topology_figures(ten_runs(2).runs[0])
    moves = figures[-1].charts[0].rows
    assert len({row["step"] for row in moves}) == UPDATES
    assert f"{UPDATES} of 199 updates are shown" in figures[-1].caption


def test_histograms_count_every_active_weight(sparse: Run):
    charts = histogram_figures(sparse)[0].charts
    last = [row["weights"] for chart in charts for row in chart.rows if row["when"] == "last"]
    assert sum(last) == 5020
    assert [chart.title for chart in charts] == ["fc1", "fc2", "fc3"]


def test_published_points_stand_beside_ours():
    (board,) = read_inputs([RESULTS / "lenet300-mnist.json"]).boards
    figure = comparison_figures(board)[0]
    rows = figure.charts[0].rows
    ours = {row["x"]: row["error"] for row in rows if row["from"] == "ours"}
    published = {row["x"]: row["error"] for row in rows if row["from"] == "published"}
    assert ours[5] == 1.576
    assert published[5] == 1.53
    assert "arXiv:1907.04840" in figure.caption


def test_error_stands_against_each_varied_setting(varied_board: Board):
    *_, numbers, words = comparison_figures(varied_board)
    assert numbers.title == "Test error against prune rate: digits-mlp"
    (rows,) = (chart.rows for chart in numbers.charts)
    assert [(row["x"], row["error"]) for row in rows if row["label"].endswith("share none")] == [(0.2, 4.0), (0.5, 5.0)]
    assert {row["x"] for row in words.charts[0].rows} == {"momentum", "none"}
    assert '"line"' not in json.dumps(words.charts[0].spec)  # words have no order
    assert '"line"' in json.dumps(numbers.charts[0].spec)


def test_speed_figures_have_a_point_for_each_row():
    inputs = read_inputs([RESULTS / name for name in ("layers.json", "steps.json", "run.json", "layer_memory.json")])
    figures = {figure.title: figure for figure in speed_figures(inputs)}
    assert len(figures["Speed-up of layers"].charts[0].rows) == len(inputs.layers)
    breakdown = figures["Where the time of a step goes, in ms"].charts[0].rows
    for row, name in zip(inputs.steps, ("vgg16-d 5 %", "vgg16-d 10 %"), strict=True):
        drawn = sum(bar["value"] for bar in breakdown if bar["name"] == name)
        assert drawn == pytest.approx(sum(row["work_ms"].values()), rel=1e-3)
    assert all(figure.commands for figure in figures.values())


def test_rows_of_several_files_with_one_name_are_not_stacked_on_each_other():
    inputs = read_inputs([RESULTS / "steps.json"])
    inputs.steps *= 2
    breakdown = next(figure for figure in speed_figures(inputs) if figure.title.startswith("Where the time"))
    bars = [(row["name"], row["kind"]) for row in breakdown.charts[0].rows]
    assert len(bars) == len(set(bars))
    assert "vgg16-d 5 % (2)" in {name for name, _ in bars}


def pixels(uri: str) -> numpy.ndarray:
    return numpy.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_pictures_have_a_dark_pixel_for_each_active_weight(sparse: Run):
    (figure,) = mask_figures(sparse)
    seen, units = figure.pictures
    masks, _, _ = read_active_sets(sparse.topology_file or "")
    first = masks["fc1.weight"]
    assert (pixels(units.uri) == DARK).all(2).sum() == first[:32].sum()
    per_pixel = first.sum(0).reshape(8, 8)
    assert numpy.array_equal(pixels(seen.uri)[..., 0].argsort(None, "stable"), (-per_pixel).argsort(None, "stable"))


def test_what_is_no_image_has_no_picture(sparse: Run, tmp_path: Path):
    assert mask_figures(replace(sparse, about={**sparse.about, "model": "gpt-char"})) == []
    about = numpy.array(json.dumps({}))
    shape, gaps = numpy.array([3, 64]), numpy.array([1, 5])  # of a layer too large for a mask
    numpy.savez(tmp_path / "topology.npz", **{"about": about, "shape/fc1.weight": shape, "gaps/fc1.weight": gaps})
    assert mask_figures(replace(sparse, path=tmp_path)) == []


def test_settings_that_an_older_run_lacks(sparse: Run):
    of_old = {key: value for key, value in sparse.about["settings"].items() if key != "clip_norm"}
    old = replace(sparse, label="old", about={**sparse.about, "settings": {**of_old, "lr": 1.0}})
    differing, common = settings_tables([old, replace(sparse, label="new")])
    assert [row[0].text for row in differing.rows] == ["lr"]
    assert "clip norm" in {row[0].text for row in common.rows}


def test_features_are_binned_whole():
    layer = {
        "name": "relu1",
        "channels": 3,
        "silent": 1,
        "specialisation": [0.5, 1.0],
        "shares": [[0.5, 0.5], [0, 1.0]],
    }
    about = {"seed": 0, "recipe": "r", "split": "test", "examples": 9, "classes": 2, "layers": [layer]}
    networks = [{"label": label, **about} for label in ("dense", "set 10 %")]
    mean, histogram, shares = feature_figures({"command": "regrow features a b", "networks": networks})
    assert [row["mean"] for row in mean.charts[0].rows] == [0.75, 0.75]
    assert sum(row["channels"] for row in histogram.charts[0].rows) == 4
    assert len(shares.pictures) == 2
    assert "never active: dense: 1; set 10 %: 1" in mean.caption


def test_every_label_has_a_look_of_its_own():
    looks = styles([f"method {i}" for i in range(21)])
    assert len({(look.colour, look.dashes) for look in looks.values()}) == 21
    assert len({(look.colour, look.marker) for look in looks.values()}) == 21
    assert not {look.colour for look in styles(["dense"]).values()} & {look.colour for look in looks.values()}
