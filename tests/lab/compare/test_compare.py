"""`regrow compare`: whole, resumed, refused; what it writes is counted again by hand."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import Result

from lab.commands import run
from lab.comparing import assert_same_run
from regrow import ops
from regrow.lab.compare.comparison import Comparison, make_comparison, read_seeds
from regrow.lab.compare.grid import Cell, Outcome
from regrow.lab.errors import UsageError
from regrow.lab.report.leaderboard import COLUMNS, Entry, find_published, leaderboard, markdown, write_tables
from regrow.lab.report.published import PublishedPoint, published_points

METHODS = ["dense", "static", "sparse-momentum"]
WORDS = ["compare", "digits-mlp", "--methods", ",".join(METHODS), "--densities", "0.1,0.3", "--seeds", "2"]
WORDS += ["--epochs", "1", "--out", "out"]
KILLED_IN_EPOCH_2 = """
import os, signal, sys
from regrow.lab.training import progress
from regrow.lab.cli.app import app

class Killer(progress.Reporter):
    def batch(self, position):
        if position.epoch == 1 and position.batch > 10:
            os.kill(os.getpid(), signal.SIGKILL)

progress.terminal_reporter = Killer
app(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def comparison(**changes: Any) -> Comparison:
    given = {"methods": METHODS, "densities": ["0.1", "0.3"], "seeds": "2", "overrides": ["epochs=1"], **changes}
    return make_comparison("digits-mlp", Path("out"), **given)


def train_here(*cells: Cell) -> None:
    """What the processes of the cells would do, in this one, where torch is loaded already."""
    for cell in cells:
        result = run("train", *cell.words, "--out", str(cell.folder), "--resume")
        assert result.exit_code == 0, result.output


def read_json(file: str) -> Any:
    return json.loads(Path(file).read_text())


def words(cell: Cell) -> str:
    return " ".join(cell.words)


# -- which runs there are


def test_every_method_density_and_seed_has_a_cell_and_dense_one_for_each_seed():
    grid = comparison()
    assert [(arm.method, arm.density) for arm in grid.arms] == [
        ("dense", 1.0),
        *[(method, density) for method in METHODS[1:] for density in (0.1, 0.3)],
    ]
    names = [str(cell) for cell in grid.cells]
    assert names[:3] == ["dense seed 0", "static 0.1 seed 0", "static 0.3 seed 0"]
    assert len({cell.folder for cell in grid.cells}) == len(set(names)) == 5 * 2
    assert "--density" not in words(grid.cells[0])
    assert {cell.epochs for cell in grid.cells} == {1}
    assert grid.about == "MLP on scikit-learn's digits; seconds, no download; epochs=1"
    assert comparison(overrides=()).about.endswith("; 40 epochs")


def test_a_varied_setting_is_a_column_which_dense_has_only_where_it_concerns_it():
    grid = comparison(vary=["momentum=0.5,0.9", "share=none,momentum"], seeds="0,7")
    dense = [dict(arm.settings) for arm in grid.arms if arm.method == "dense"]
    assert dense == [{"momentum": 0.5}, {"momentum": 0.9}]
    sparse = [dict(arm.settings) for arm in grid.arms if (arm.method, arm.density) == ("static", 0.1)]
    assert sparse == [{"momentum": m, "share": s} for m in (0.5, 0.9) for s in ("none", "momentum")]
    cell = grid.cells[2]
    assert str(cell) == "static 0.1 momentum=0.5 share=none seed 0"
    assert "--set momentum=0.5 --set share=none" in words(cell)
    assert len({cell.folder for cell in grid.cells}) == len(grid.cells) == 2 * (2 + 4 * 4)


def test_a_varied_setting_may_have_the_name_that_the_method_has_for_it():
    old, new = (comparison(vary=[f"{key}=none,gradient"]) for key in ("share", "redistribution"))
    assert [cell.folder for cell in old.cells] == [cell.folder for cell in new.cells]
    assert old.identity == new.identity


def test_values_that_hold_commas_are_parted_by_semicolons():
    grid = comparison(methods=["static"], densities=["0.1"], vary=["lr_drops=500,900;800"])
    assert [arm.settings["lr_drops"] for arm in grid.arms] == [[500, 900], [800]]


def test_seeds_are_a_number_or_a_list():
    assert (read_seeds("3"), read_seeds("4,1"), read_seeds("0,")) == ((0, 1, 2), (4, 1), (0,))
    for text in ("", "0", "-1", "1,x", "0.5"):
        with pytest.raises(UsageError, match="--seeds 5"):
            read_seeds(text)


# -- whole grids


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bits_of_one_that_was_not():
    """The real processes; the other run of the grid is finished already."""
    grid = comparison(methods=["static"], densities=["0.1"], overrides=["epochs=2"])
    killed, finished = grid.cells
    untouched = Cell("untouched", Path("untouched"), killed.words)
    train_here(untouched)
    Path("out").mkdir()
    Path("out/grid.json").write_text(json.dumps(grid.identity))
    train_here(finished)
    program = [sys.executable, "-c", KILLED_IN_EPOCH_2, "train", *killed.words, "--out", str(killed.folder)]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL

    words = ["compare", "digits-mlp", "--methods", "static", "--densities", "0.1", "--seeds", "2", "--epochs", "2"]
    result = run(*words, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "2 runs, 1 finished before, 2 at a time" in result.stdout
    assert "[1/1] static 0.1 seed 0: test error" in result.stdout
    assert "resuming at step 41" in killed.log.read_text()
    assert_same_run(untouched.folder, killed.folder)
    (row,) = read_json("out/leaderboard.json")
    assert row["seeds"] == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all runs of the comparison are."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "keep_pages", lambda: True)  # as conftest.py does for each test
        patch.chdir(folder)
        Path("out").mkdir()
        Path("out/grid.json").write_text(json.dumps(comparison().identity))
        train_here(*comparison().cells)
    return folder / "out"


@pytest.fixture
def finished(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The command on a grid of which all runs are there; it starts no process."""
    shutil.copytree(trained, "out")
    monkeypatch.setattr(subprocess, "Popen", None)
    return run(*WORDS)


def test_the_leaderboard_says_what_the_runs_say(finished: Result):
    assert finished.exit_code == 0, finished.output
    assert "10 runs, 10 finished before" in finished.stdout
    rows = read_json("out/leaderboard.json")
    assert all(list(row) == list(COLUMNS) for row in rows)
    assert [row["density"] for row in rows] == [1.0, 0.3, 0.3, 0.1, 0.1]
    for arm in comparison().arms:
        (row,) = [row for row in rows if (row["method"], row["density"]) == (arm.method, arm.density)]
        one, other = (cell.summary or {} for cell in arm.cells)
        assert row["seeds"] == 2
        assert row["test_error_mean"] == pytest.approx((one["test_error"] + other["test_error"]) / 2)
        assert row["test_error_se"] == pytest.approx(abs(one["test_error"] - other["test_error"]) / 2)
        assert row["achieved_density"] == arm.density
        assert row["train_flops"] == pytest.approx((one["train_flops"] + other["train_flops"]) / 2)
    with open("out/leaderboard.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in rows] == table
    page = Path("out/leaderboard.md").read_text()
    command = "regrow compare digits-mlp --methods dense,static,sparse-momentum --densities 0.1,0.3 --seeds 2"
    assert f"`{command} --epochs 1 --out out`" in page
    assert "Not finished" not in page


def test_a_folder_goes_on_without_its_runs(finished: Result):
    """As a clone has it: tables and summaries, no run folder. Where there are run folders, they alone count."""
    before = {name: Path("out", name).read_bytes() for name in ("leaderboard.json", "finished.jsonl")}
    summaries = [cell.summary for cell in comparison().cells]
    shutil.rmtree("out/runs")
    result = run(*WORDS)
    assert "10 runs, 10 finished before" in result.stdout, result.output
    assert {name: Path("out", name).read_bytes() for name in before} == before
    assert [cell.summary for cell in comparison().cells] == summaries
    shutil.rmtree(comparison().cells[0].folder)  # to have one run anew
    assert "10 runs, 9 finished before" in run(*WORDS).stdout


def test_a_damaged_line_is_named_and_nothing_is_trained(finished: Result):
    shutil.rmtree("out/runs")
    lines = Path("out/finished.jsonl").read_text().splitlines()
    Path("out/finished.jsonl").write_text("\n".join([*lines[:3], lines[3][:40]]))
    result = run(*WORDS)
    assert "finished.jsonl, line 4 is damaged; delete it" in result.stderr
    assert not Path("out/runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_place")
def test_a_cluster_gives_the_rows_of_processes(trained: Path):
    shutil.copytree(trained, "here")
    assert run(*replaced("--out", "here")).exit_code == 0  # all trained already
    words = ["--methods", "static", "--densities", "0.1", "--seeds", "2", "--epochs", "1", "--executor", "ray"]
    result = run("compare", "digits-mlp", *words, "--out", "cluster")
    assert result.exit_code == 0, result.output
    assert "2 runs, 0 finished before, 2 at a time" in result.stdout
    (row,) = read_json("cluster/leaderboard.json")
    (wanted,) = [
        one for one in read_json("here/leaderboard.json") if (one["method"], one["density"]) == ("static", 0.1)
    ]
    for key in row.keys() - {"seconds", "peak_rss_mb"}:
        assert row[key] == wanted[key], key
    assert "--executor ray" in Path("cluster/leaderboard.md").read_text()


def test_a_failed_run_is_shown_in_every_place(trained: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(trained, "out")
    static = comparison().cells[1]
    (static.folder / "summary.json").unlink()
    with monkeypatch.context() as patch:
        failing = [sys.executable, "-c", "import sys; sys.exit('error: no luck')"]
        patch.setattr(Cell, "command", property(lambda cell: failing))
        result = run(*WORDS)
    assert result.exit_code == 1, result.output
    assert result.stderr == "error: 1 of 10 runs failed, for the reasons above; the same command tries them again\n"
    told = f"static 0.1 seed 0: FAILED, error: no luck, see {static.log}"
    assert result.stdout.count(told) == 2
    page = Path("out/leaderboard.md").read_text()
    assert f"Not finished:\n\n- {told}\n" in page
    assert "| 1 of 2 |" in page
    assert len(read_json("out/leaderboard.json")) == 5


def test_pictures_are_drawn(finished: Result):
    pytest.importorskip("vl_convert")
    for name in ("error_density", "error_flops"):
        png, svg = Path(f"out/{name}.png").read_bytes(), Path(f"out/{name}.svg").read_text()
        assert png.startswith(b"\x89PNG")
        assert len(png) > 10_000
        for text in (">sparse-momentum<", ">static<", ">dense<", ">test error in %", "regrow compare digits-mlp"):
            assert text in svg
        assert f"![{name}.png]({name}.png)" in Path("out/leaderboard.md").read_text()
    before = Path("out/error_density.svg").read_text()
    assert run(*WORDS).exit_code == 0
    assert Path("out/error_density.svg").read_text() == before


def test_without_what_draws_there_are_tables_and_the_remedy(monkeypatch: pytest.MonkeyPatch, request):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for name in ("plots", "charts"):
        monkeypatch.delitem(sys.modules, f"regrow.lab.report.{name}", raising=False)
    result = request.getfixturevalue("finished")
    assert result.exit_code == 0, result.output
    assert "no plots: vl_convert is not here; pip install 'regrow[report]'" in result.stdout
    assert Path("out/leaderboard.md").exists()
    assert not list(Path("out").glob("*.png"))


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regrow.lab.compare.command.run_grid", lambda *given: Outcome(stopped=True))
    result = run(*WORDS, "--jobs", "3", "--vary", "momentum=0.5,0.9")
    assert result.exit_code == 130
    assert result.stderr.count("\n") == 1
    assert "stopped with 0 of 20 runs finished; go on with: regrow compare digits-mlp" in result.stderr
    assert result.stderr.rstrip().endswith("--vary momentum=0.5,0.9 --epochs 1 --out out --jobs 3")


# -- the folder


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that belongs to the comparison of WORDS; nothing is trained."""
    monkeypatch.setattr("regrow.lab.compare.command.run_grid", lambda *given: Outcome())
    assert run(*WORDS).exit_code == 0


def replaced(option: str, value: str) -> list[str]:
    place = WORDS.index(option) + 1
    return [*WORDS[:place], value, *WORDS[place + 1 :]]


@pytest.mark.usefixtures("claimed")
@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (replaced("--epochs", "2"), "epochs: 1 there, 2 now"),
        ([*WORDS, "--storage", "masked"], "storage: auto there, masked now"),
        ([*WORDS, "--threads", "2"], "threads: 1 there, 2 now"),
        ([WORDS[0], "lenet300-mnist", *WORDS[2:]], "recipe: digits-mlp there, lenet300-mnist now"),
        (replaced("--methods", "dense,static"), "methods without sparse-momentum"),
        (replaced("--densities", "0.1"), "densities without 0.3"),
        (replaced("--seeds", "1,2"), "seeds without 0"),
        ([*WORDS, "--vary", "lr=0.1,0.2"], "varied: nothing there, lr now"),
    ],
)
def test_the_folder_of_another_grid_is_refused(changed: list[str], difference: str):
    before = Path("out/grid.json").read_text()
    result = run(*changed)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert difference in result.stderr
    assert "choose another folder with --out" in result.stderr
    assert Path("out/grid.json").read_text() == before


@pytest.mark.usefixtures("claimed")
def test_a_grid_may_grow():
    assert run(*replaced("--seeds", "3")).exit_code == 0
    assert read_json("out/grid.json")["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_folder_of_something_else_is_refused(what: str):
    if what == "folder":
        Path("out").mkdir()
        Path("out/thesis.tex").touch()
    else:
        Path("out").touch()
    result = run(*WORDS)
    assert result.exit_code == 2
    assert "--out" in result.stderr


# -- tables


def summary(test_error: float, **changes: Any) -> dict[str, Any]:
    figures = {"active_weights": 11, "prunable_weights": 100, "train_flops": 0.2, "flop_density_end": 0.3}
    figures |= {"train_seconds": 10.0, "peak_rss_mb": 500.0, "updates": 3}
    return {"test_error": test_error, **figures, **changes}


def test_aggregates_by_hand():
    runs = [summary(1.0), summary(2.0, train_flops=0.4, train_seconds=20.0, peak_rss_mb=700.0), summary(4.5)]
    entries = [
        Entry("set", 0.1, {}, runs, 3),
        Entry("rigl", 0.1, {}, [summary(2.0)], 3),
        Entry("rigl", 0.2, {}, [], 3),
        Entry("dense", 1.0, {}, [summary(9.0, train_flops=None)], 3),
    ]
    dense, rigl, set_ = leaderboard(entries)
    assert set_ == {
        "method": "set",
        "density": 0.1,
        "achieved_density": 0.11,
        "test_error_mean": 2.5,
        "test_error_se": pytest.approx(((1.5**2 + 0.5**2 + 2**2) / 2 / 3) ** 0.5),
        "seeds": 3,
        "train_flops": pytest.approx((0.2 + 0.4 + 0.2) / 3),
        "inference_flops": 0.3,
        "seconds": pytest.approx(40 / 3),
        "peak_rss_mb": 700.0,
        "updates": 3,
    }
    assert (rigl["method"], rigl["test_error_se"], rigl["seeds"]) == ("rigl", None, 1)
    assert (dense["method"], dense["train_flops"]) == ("dense", None)


def test_the_page_shows_missing_seeds_and_published_figures(tmp_path: Path):
    rows = leaderboard(
        [
            Entry("set", 0.05, {"momentum": 0.9}, [summary(2.0), summary(3.0)], 3),
            Entry("dense", 1.0, {}, [summary(1.0)] * 3, 3),
        ]
    )
    point = PublishedPoint("set", 0.05, {"momentum": 0.9}, 1.875, 0.02, "A paper")
    page = markdown(rows, "title", "regrow compare x", 3, [point], {"set seed 2": "FAILED"}, [])
    assert "| set | 5 % | 0.9 | 0.1100 | 2.50 ± 0.50 | 1.88 ± 0.02 | 2 of 3 | 0.200 | 0.300 | 10.0 | 500 | 3 |" in page
    assert "| dense | – | – | 0.1100 | 1.00 ± 0.00 | – | 3 |" in page
    assert "- set seed 2: FAILED" in page
    assert "- A paper" in page
    write_tables(tmp_path, rows, title="t", command="c", seeds=3)
    assert (tmp_path / "leaderboard.csv").read_text().startswith("method,density,momentum,achieved_density,")
    assert "published, %" not in (tmp_path / "leaderboard.md").read_text()


def test_published_figures_belong_to_method_density_and_settings():
    points = published_points("lenet300-mnist")
    assert len({(point.method, point.density) for point in points}) == len(points)
    point = find_published({"method": "sparse-momentum", "density": 0.05}, points)
    assert point is not None
    assert (point.error, point.se) == (1.53, 0.02)
    assert "arXiv:1907.04840" in point.source
    assert find_published({"method": "sparse-momentum", "density": 0.05, "momentum": 0.5}, points) is None
    analysis = published_points("vgg16-d-cifar10")
    row = {"method": "sparse-momentum", "density": 0.05, "momentum": 0.5}
    assert (find_published(row, analysis) or point).error == 6.787
    assert published_points("digits-mlp") == []


def words_of(picture: Path) -> str:
    """What is written in an SVG; captions are several lines."""
    return " ".join(ElementTree.parse(picture).getroot().itertext())


def test_varied_settings_and_published_points_are_drawn(tmp_path: Path):
    pytest.importorskip("vl_convert")
    from regrow.lab.report.plots import draw_comparison

    entries = [
        Entry("sparse-momentum", 0.05, {"momentum": momentum, "share": share}, [summary(error), summary(error + 1)], 2)
        for momentum in (0.5, 0.9)
        for share, error in (("momentum", 6.5), ("none", 7.0))
    ]
    names = draw_comparison(tmp_path, leaderboard(entries), title="t", command="c")
    assert names == ["error_density.png", "error_flops.png", "error_momentum.png", "error_share.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)
    assert ">sparse-momentum, 5 %, share none<" in (tmp_path / "error_momentum.svg").read_text()

    one = [Entry("sparse-momentum", 0.05, {"momentum": m}, [summary(6.0 + m)], 1) for m in (0.5, 0.9)]
    points = published_points("vgg16-d-cifar10")
    draw_comparison(tmp_path, leaderboard(one), title="t", command="c", points=points)
    picture = words_of(tmp_path / "error_momentum.svg")
    assert "Hollow: published in Dettmers & Zettlemoyer 2019" in picture
    assert "sensitivity_*.csv" in picture
    assert " 0.95 " in picture  # published there, not among ours
    assert "above the frame: sparse-momentum, 5 % 38.66 at momentum 0.99." in picture

    far = [Entry("static", density, {}, [summary(5.0)], 1) for density in (0.01, 0.1)]
    draw_comparison(tmp_path, leaderboard(far), title="t", command="c", points=published_points("lenet300-mnist"))
    picture = words_of(tmp_path / "error_density.svg")
    assert "above the frame: static 50.51 at 1 %, static 17.19 at 2 %" in picture
    assert "set 4.2" not in picture
