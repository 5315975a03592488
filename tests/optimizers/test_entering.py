"""Weights enter with momentum 0, or what was collected, and with the mean second moment of their layer."""

import pytest
import torch

import regrow
from helpers import frozen, indices, loss_at, mlp
from regrow.optimizers.entering import entering_means, state_of
from regrow.optimizers.hooks import nested

STORAGES = ("masked", "compressed")
SIZES = (8, 24, 4)
stored = pytest.mark.parametrize("storage", STORAGES)


def sparse(storage):
    return regrow.sparsify(mlp(*SIZES, dtype=torch.float64), 0.3, storage=storage, seed=1)


def step_of(model, optimizer, step):
    optimizer.zero_grad()
    loss_at(model, step, dtype=torch.float64).backward()
    optimizer.step()


def updated(method, make, storage, steps=6, **settings):
    """(state before an update by hand, model, optimizer, places of weights that entered), for each layer."""
    model = sparse(storage)
    optimizer = make(model.parameters())
    updater = method(model, optimizer, total_steps=100, update_every=None, seed=0, **settings)
    updater.expect_update(steps)
    for step in range(steps):
        step_of(model, optimizer, step)
    weights = regrow.sparse_weights(model)
    old = {
        name: {
            key: weight.take(value)
            for key, value in frozen(dict(optimizer.state[weight.parameter])).items()
            if value.dim()
        }
        for name, weight in weights.items()
    }
    before = indices(model)
    updater.update()
    for name, weight in weights.items():
        new = torch.tensor([position not in before[name] for position in weight.indices.tolist()])
        assert new.any()
        now = {key: weight.take(v) for key, v in optimizer.state[weight.parameter].items() if v.dim()}
        yield old[name], now, new


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, amsgrad=True)


MAGNITUDES = {
    "adam": (adam, {"exp_avg_sq", "max_exp_avg_sq"}, {"exp_avg"}),
    "adamax": (torch.optim.Adamax, {"exp_inf"}, {"exp_avg"}),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, momentum=0.9), {"square_avg"}, {"momentum_buffer"}),
    "adagrad": (torch.optim.Adagrad, {"sum"}, set()),
    "rprop": (torch.optim.Rprop, {"step_size"}, {"prev"}),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), set(), {"momentum_buffer"}),
}


@stored
@pytest.mark.parametrize("method", [regrow.SET, regrow.RigL], ids=lambda method: method.__name__)
@pytest.mark.parametrize("kind", MAGNITUDES)
def test_magnitudes_enter_with_their_mean_over_active_weights_and_momenta_with_0(kind, method, storage):
    make, magnitudes, momenta = MAGNITUDES[kind]
    for before, now, new in updated(method, make, storage):
        assert now.keys() == magnitudes | momenta
        for name in magnitudes:
            assert now[name][new].eq(before[name].mean()).all(), name
        for name in momenta:
            assert not now[name][new].any(), name


@stored
def test_inherited_momentum_keeps_its_values_and_other_magnitudes_enter_with_their_mean(storage):
    for before, now, new in updated(regrow.SparseMomentum, adam, storage):
        assert now["exp_avg"][new].all()
        assert now["exp_avg_sq"][new].unique().numel() == int(new.sum()) > 1
        assert now["max_exp_avg_sq"][new].eq(before["max_exp_avg_sq"].mean()).all()


GROWING = {
    "set": (regrow.SET, {"seed": 0}),
    "rigl": (regrow.RigL, {}),
    "mest": (regrow.MEST, {"seed": 0, "soft_bound": False}),
    "dsr": (regrow.DSR, {"seed": 0, "threshold": 1e-2}),
    "granet": (regrow.GraNet, {"density": 0.2}),
    "deep-rewiring": (regrow.DeepRewiring, {"seed": 0, "l1": 20.0}),
}


@stored
@pytest.mark.parametrize("name", GROWING)
def test_no_entering_weight_jumps(name, storage):
    """With a second moment of 0 after 40 steps, Adam's first step would be 2.6 learning rates long or more."""
    model = sparse(storage)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    method, settings = GROWING[name]
    method(model, optimizer, total_steps=100, update_every=40, **settings)
    for step in range(40):
        before = indices(model)
        step_of(model, optimizer, step)
    weights = regrow.sparse_weights(model)
    new = {
        name: torch.tensor([p for p in weight.indices.tolist() if p not in before[name]], dtype=torch.long)
        for name, weight in weights.items()
    }
    assert any(positions.numel() for positions in new.values())
    values = {name: dense(weight) for name, weight in weights.items()}
    step_of(model, optimizer, 40)
    for name, weight in weights.items():
        moved = (dense(weight) - values[name])[new[name]].abs()
        assert bool((moved <= 1.5e-4).all()), moved.max()


def dense(weight):
    return torch.zeros(weight.numel, dtype=torch.float64).index_copy_(0, weight.indices, weight.values)


def test_top_kast_reaches_new_weights_with_the_mean_of_those_it_reached_before():
    model = regrow.sparsify(mlp(*SIZES, dtype=torch.float64), 1.0, storage="masked")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    updater = regrow.TopKAST(model, optimizer, total_steps=90, update_every=None, density=0.2)
    for step in range(8):
        step_of(model, optimizer, step)
    weight = regrow.sparse_weights(model)["0.weight"]
    state = optimizer.state[weight.parameter]
    before, reached = state["exp_avg_sq"].clone(), updater.state_dict()["trained"]["0.weight"].clone()
    updater.update()
    now = updater.state_dict()["trained"]["0.weight"]
    entering = now & ~reached
    assert entering.any()
    assert state["exp_avg_sq"][entering].eq(before[reached].mean()).all()
    assert not state["exp_avg"][entering].any()
    assert not state["exp_avg_sq"][~now].any()


class Shared(torch.optim.SGD):
    """Keeps a matrix of rows by rows, as Shampoo does: of the weight's own shape, where that is a square."""

    def step(self, closure=None):
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            rows = parameter.grad.flatten(1)
            self.state[parameter]["rows"] = rows @ rows.t()


def test_state_of_rows_does_not_move_with_elements():
    model = regrow.sparsify(torch.nn.Linear(6, 6, bias=False), 0.5, storage="masked", seed=0)
    optimizer = Shared(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(3, 6)).sum().backward()
    optimizer.step()
    weight = regrow.sparse_weights(model)["weight"]
    assert optimizer.state[weight.parameter]["rows"].shape == weight.shape
    assert state_of(nested(optimizer), weight).keys() == {"momentum_buffer"}


def test_means_of_an_optimizer_that_has_not_stepped():
    model = sparse("masked")
    assert entering_means(torch.optim.Adam(model.parameters()), regrow.sparse_weights(model)["0.weight"]) == {}
