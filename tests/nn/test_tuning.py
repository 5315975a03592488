"""`tune=True`: what is measured, under a clock that the test holds; what is remembered; how it travels."""

import copy

import pytest
import torch
from torch import nn

import regrow
from regrow.nn import SparseConv2d, SparseLinear, to_blocked, tuning
from regrow.ops import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="without native kernels nothing is measured")


class Clock:
    """Stands still, but for what the test's computations take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock under which a dense product takes 0.3 seconds, and a sparse one as many as its density."""
    clock = Clock()

    def takes(seconds, run):
        def running(*args):
            clock.now += seconds(*args)
            return run(*args)

        return running

    def density(input, weight, *_):
        return weight.numel() / 200

    monkeypatch.setattr("regrow.nn.linear.sparse_linear", takes(density, regrow.nn.linear.sparse_linear))
    monkeypatch.setattr("regrow.nn.linear.F.linear", takes(lambda *_: 0.301, nn.functional.linear))
    measure = tuning.measure
    monkeypatch.setattr(tuning, "measure", lambda layer, where: measure(layer, where, clock))
    return clock


@pytest.fixture
def measured(monkeypatch):
    """What is asked to be measured; every answer is "dense from 100 active weights"."""
    asked = []

    def measure(layer, where):
        asked.append((tuple(layer.dense_shape), where))
        return 100

    monkeypatch.setattr(tuning, "measure", measure)
    return asked


def linear(active, tune=True):
    layer = SparseLinear(20, 10, positions=torch.arange(active))
    layer.tune = tune
    return layer


@pytest.mark.parametrize(("threshold", "found"), [(0.0, 0.02), (0.02, 0.02), (0.33, 0.35), (1.0, 1.0), (1.01, None)])
def test_bisection_finds_the_least_probed_density(threshold, found):
    assert tuning.crossing(lambda density: density >= threshold) == found


def test_the_faster_computation_is_chosen(clock):
    layer = linear(70)
    layer(torch.randn(4, 20))
    assert layer.tuned.tolist() == [[4, 1, 1, 0, 70]]  # 0.35 is the least probed density above 0.301
    assert layer.computes_dense((4, 1, 1, 0))
    layer.set_topology(torch.arange(69), torch.ones(69))
    assert not layer.computes_dense((4, 1, 1, 0))


def test_measuring_leaves_no_trace(clock):
    layer, x = linear(60), torch.randn(4, 20)
    hooked = []
    layer.register_forward_hook(lambda *_: hooked.append(1))
    values, state = layer.weight.detach().clone(), torch.get_rng_state()
    with torch.inference_mode():
        layer(x)
    assert layer.tuned is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer.weight, values)
    assert layer.weight.grad is None
    assert hooked == [1]


def test_each_shape_is_measured_once_up_to_eight(measured):
    layer = linear(50)
    for rows in (*range(1, 12), 3, 3):
        layer(torch.randn(rows, 20))
    layer.set_topology(torch.arange(120), torch.ones(120))
    layer(torch.randn(3, 20))
    assert [where[0] for _, where in measured] == list(range(1, 9))
    assert layer.computes_dense((8, 1, 1, 0))
    layer.set_topology(torch.arange(1), torch.ones(1))
    assert not layer.computes_dense((8, 1, 1, 0))
    assert layer.computes_dense((9, 1, 1, 0)) == (layer.density >= tuning.dense_from("linear"))


def test_a_blocked_input_is_a_case_of_its_own(measured):
    layer = SparseConv2d(2, 3, 3, padding=1, positions=torch.arange(5))
    layer.tune = True
    x = torch.randn(2, 2, 6, 4)
    layer(x)
    layer(to_blocked(x))
    assert [where for _, where in measured] == [(2, 6, 4, 0), (2, 6, 4, 1)]


@pytest.mark.parametrize("blocked", [0, 1])
def test_convolutions_are_measured_in_earnest(blocked):
    layer = SparseConv2d(2, 3, 3, padding=1, positions=torch.arange(5))
    assert 1 <= tuning.measure(layer, (2, 6, 4, blocked)) <= 55


def test_nothing_is_measured_unasked(measured):
    linear(50, tune=False)(torch.randn(4, 20))
    linear(50)(torch.randn(0, 20))
    forced = linear(50)
    forced.compute = "sparse"
    forced(torch.randn(4, 20))
    assert not measured


def network(tune=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 20))
    return regrow.sparsify(net, 0.6, storage="compressed", tune=tune)


def choices(net):
    return [layer.tuned.tolist() for layer in net if isinstance(layer, SparseLinear)]


def test_sparsify_asks_and_files_remember(measured, tmp_path):
    net, x = network(), torch.randn(4, 20)
    net(x)
    assert len(measured) == 2
    fresh = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 20))
    regrow.save(tmp_path / "net.pt", net)
    others = [network(), network(tune=False), copy.deepcopy(net), regrow.load(tmp_path / "net.pt", fresh)]
    for other in others[:2]:
        other.load_state_dict(net.state_dict())
    for other in others:
        assert torch.equal(other(x), net(x))
        assert choices(other) == choices(net)
        assert other[0].computes_dense((4, 1, 1, 0))
    assert len(measured) == 2


def test_a_state_without_choices_follows_the_table_again(measured):
    net, plain = network(), network(tune=False)
    net(torch.randn(4, 20))
    net.load_state_dict(plain.state_dict())
    assert net[0].tuned is None


def test_masked_storage_loads_the_state_without_the_choices(measured):
    net = network()
    net(torch.randn(4, 20))
    masked = regrow.sparsify(regrow.densify(net), 0.6, storage="masked")
    masked.load_state_dict(net.state_dict())
    x = torch.randn(4, 20)
    torch.testing.assert_close(masked(x), net(x))


def test_an_unknown_way_to_compute_is_refused():
    with pytest.raises(ValueError, match="compute='fast' is unknown"):
        linear(5).compute = "fast"
