"""What docs/determinism.md promises of the bits of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regrow
from lab.training.test_resume import SignalAt, assert_same_run
from regrow.lab import Interrupted, Settings, UsageError, train
from regrow.lab.training.determinism import deterministic_algorithms
from regrow.lab.training.folder import RunFolder

LINEAR = lambda: nn.Linear(784, 300)  # noqa: E731
SMALL_PLANES = lambda: nn.Conv2d(64, 64, 3, padding=1)  # noqa: E731
LARGE_PLANES = lambda: nn.Conv2d(16, 32, 3, padding=1)  # noqa: E731


@pytest.fixture
def with_threads() -> Iterator[Callable[..., dict[str, Tensor]]]:
    """Runs a sparse layer forward and backward with so many threads; its output and gradients."""
    before = torch.get_num_threads()

    def run(layer: Callable[[], nn.Module], shape: tuple[int, ...], threads: int) -> dict[str, Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        sparse = regrow.sparsify(nn.Sequential(layer()), 0.1, storage="compressed", seed=0)
        x = torch.randn(shape, requires_grad=True)
        y = sparse(x)
        y.square().sum().backward()
        return {"output": y, "input": x.grad, **{name: p.grad for name, p in sparse[0].named_parameters()}}

    yield run
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("layer", "shape", "same"),
    [
        (LINEAR, (100, 784), {"output", "input", "weight", "bias"}),
        (SMALL_PLANES, (8, 64, 2, 2), {"output", "input", "weight", "bias"}),
        (LARGE_PLANES, (32, 16, 16, 16), {"output", "input", "bias"}),
    ],
)
def test_kernels_keep_their_bits_for_one_and_two_threads(with_threads, layer: Any, shape: Any, same: set[str]):
    one, two, again = (with_threads(layer, shape, threads) for threads in (1, 2, 2))
    assert same <= {name for name in one if torch.equal(one[name], two[name])}
    assert all(torch.equal(two[name], again[name]) for name in two)


def test_a_compressed_network_of_linear_layers_trains_to_the_same_bits_with_one_thread_or_two(
    short: Callable[..., Settings], tmp_path: Path
):
    models = []
    for threads in (1, 2):
        settings = short("epochs=2", "images=320", method="rigl", storage="compressed")
        train(settings, out=tmp_path / str(threads), threads=threads, deterministic=True)
        models.append((RunFolder(tmp_path / str(threads)).checkpoint() or {})["model"])
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_deterministic_run_repeats_and_goes_on_as_it_began(tiny: Callable[..., Settings], tmp_path: Path):
    settings = tiny("epochs=2", "images=96")
    summary = train(settings, out=tmp_path / "one", threads=2, deterministic=True)
    assert summary["deterministic"]
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(Interrupted):
        train(settings, out=tmp_path / "two", threads=2, deterministic=True, reporter=SignalAt(1, batch=1))
    assert train(settings, out=tmp_path / "two", resume=True)["deterministic"]
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_run_that_began_otherwise_is_refused(short: Callable[..., Settings], tmp_path: Path):
    with pytest.raises(Interrupted):
        train(short(), out=tmp_path / "run", threads=1, reporter=SignalAt(0))
    with pytest.raises(UsageError, match="deterministic: not there, now"):
        train(short(), out=tmp_path / "run", resume=True, deterministic=True)


def test_operators_without_a_deterministic_algorithm_are_refused_within_alone():
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert torch.are_deterministic_algorithms_enabled() == before
