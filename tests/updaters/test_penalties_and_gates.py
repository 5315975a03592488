"""Methods that add to gradients or exchange what is trained, against the formulas of their papers in plain loops."""

import copy
import math

import pytest
import torch
from torch import nn

import regrow
from helpers import indices, mlp
from updaters.test_methods import loss_at

F64 = torch.float64
STEPS, EVERY = 20, 2


def dense(**more):
    return regrow.sparsify(mlp(8, 12, 4, dtype=F64, **more), 1.0, storage="masked")


def sgd(model, **more):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9} | more)


def train(model, optimizer, steps=STEPS, clip=None):
    for step in range(steps):
        optimizer.zero_grad()
        loss_at(model, step, dtype=F64).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def weights(model):
    return {name: weight.parameter.detach().clone() for name, weight in regrow.sparse_weights(model).items()}


def plain(steps, change):
    """A dense net trained by hand; `change(step, name, weight, gradient)` may write to weights and gradients."""
    model = mlp(8, 12, 4, dtype=F64)
    optimizer = sgd(model)
    for step in range(steps):
        optimizer.zero_grad()
        loss_at(model, step, dtype=F64).backward()
        for name in ("0.weight", "2.weight"):
            parameter = model.get_parameter(name)
            with torch.no_grad():
                change(step, name, parameter, parameter.grad)
        optimizer.step()
    return model


def smallest(scores, density):
    """Which stay, of a layer."""
    keep = round(density * scores.numel())
    return set(scores.reshape(-1).argsort(descending=True, stable=True)[:keep].tolist())


def test_forgetting_adds_the_sign_and_then_of_small_weights_only():
    model = dense()
    optimizer = sgd(model)
    regrow.Forgetting(
        model,
        optimizer,
        total_steps=STEPS,
        update_every=EVERY,
        density=0.25,
        penalty=0.02,
        threshold=0.2,
        selective=0.4,
    )
    train(model, optimizer, 15)

    def change(step, name, weight, gradient):
        small = (weight.abs() < 0.2) if step >= 8 else torch.ones_like(weight, dtype=torch.bool)
        gradient += 0.02 * torch.sign(weight) * small

    expected = plain(15, change)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected.get_parameter(name).detach(), rtol=1e-12, atol=1e-14)
    train(model, optimizer, 1)  # the update at step 16 prunes
    assert sum(len(own) for own in indices(model).values()) == 36


def test_forgetting_is_not_scaled_or_clipped_with_the_gradient():
    ends = []
    for penalty in (0.0, 0.5):
        model = dense()
        optimizer = sgd(model, momentum=0.0)
        regrow.Forgetting(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25, penalty=penalty)
        before = weights(model)
        train(model, optimizer, 1, clip=1e-3)
        ends.append(weights(model))
    for name, value in ends[1].items():
        torch.testing.assert_close(value, ends[0][name] - 0.1 * 0.5 * before[name].sign(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_karnin_prunes_by_the_integral(scope):
    model = dense()
    optimizer = sgd(model)
    regrow.Karnin(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25, scope=scope)
    train(model, optimizer, 16)
    values, gradients = {"0.weight": [], "2.weight": []}, {"0.weight": [], "2.weight": []}

    def note(step, name, weight, gradient):
        values[name].append(weight.clone())
        gradients[name].append(gradient.clone())

    after = plain(16, note)
    scores = {}
    for name in values:
        path = [*values[name], after.get_parameter(name).detach()]
        steps = zip(gradients[name], path, path[1:], strict=False)
        integral = sum(-gradient * (new - old) for gradient, old, new in steps)
        scores[name] = integral * path[-1] / (path[-1] - path[0])
    kept = {name: set(own) for name, own in indices(model).items()}
    if scope == "local":
        assert kept == {name: smallest(own, 0.25) for name, own in scores.items()}
    else:
        together = smallest(torch.cat([own.reshape(-1) for own in scores.values()]), 0.25)
        assert kept == {
            "0.weight": {p for p in together if p < 96},
            "2.weight": {p - 96 for p in together if p >= 96},
        }


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_powerpropagation_is_gradient_descent_on_phi(alpha):
    model = dense()
    optimizer = sgd(model, weight_decay=0.01)
    updater = regrow.Powerpropagation(model, optimizer, total_steps=STEPS, update_every=None, density=0.25, alpha=alpha)
    net = mlp(8, 12, 4, dtype=F64)
    phi = {
        n: (p.sign() * p.abs() ** (1 / alpha)).detach().requires_grad_() for n, p in net.named_parameters() if "w" in n
    }
    biases = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "b" in n}
    trained = torch.optim.SGD([*phi.values(), *biases.values()], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(10):
        trained.zero_grad()
        theta = {name: p * p.abs() ** (alpha - 1) for name, p in phi.items()}

        def run(x, theta=theta):
            return torch.func.functional_call(net, theta | biases, (x,))

        loss_at(run, step, dtype=F64).backward()
        trained.step()
    train(model, optimizer, 10)
    for name, value in weights(model).items():
        own = phi[name].detach()
        torch.testing.assert_close(value, own * own.abs() ** (alpha - 1), rtol=1e-8, atol=1e-10)
    updater.update()


def test_powerpropagation_keeps_weights_to_the_bit_where_a_step_is_skipped():
    model = dense()
    optimizer = sgd(model, fused=True)
    regrow.Powerpropagation(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25)
    before = weights(model)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    loss_at(model, 0, dtype=F64).backward()
    optimizer.step()
    for name, value in weights(model).items():
        assert torch.equal(value, before[name])


class Wrapper(torch.optim.Optimizer):
    def __init__(self, inner):
        self.optimizer = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        return self.optimizer.step(closure)


def test_powerpropagation_refuses_what_keeps_copies():
    model = dense()
    with pytest.raises(ValueError, match="LBFGS evaluates"):
        regrow.Powerpropagation(
            model, torch.optim.LBFGS(model.parameters()), total_steps=20, update_every=2, density=0.25
        )
    with pytest.raises(ValueError, match="Wrapper wraps"):
        regrow.Powerpropagation(model, Wrapper(sgd(model)), total_steps=20, update_every=2, density=0.25)


@pytest.mark.parametrize("signed", [False, True])
def test_edge_popup_trains_scores_through_the_choice(signed):
    """Against an autograd function that chooses in forward and passes gradients straight through."""

    class Choose(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, keep):
            mask = torch.zeros(scores.numel(), dtype=F64)
            mask[scores.abs().reshape(-1).argsort(descending=True, stable=True)[:keep]] = 1
            return mask.view_as(scores)

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    model = dense()
    optimizer = sgd(model, lr=1.0, weight_decay=0.01)
    updater = regrow.EdgePopup(model, optimizer, total_steps=STEPS, update_every=1, density=0.25, signed=signed, seed=3)
    net = mlp(8, 12, 4, dtype=F64)
    fixed = {n: p.detach().clone() for n, p in net.named_parameters() if "w" in n}
    if signed:
        fixed = {n: p.sign() * math.sqrt(2 / (p.size(1) * 0.25)) for n, p in fixed.items()}
    scores = {n: s.clone().requires_grad_() for n, s in updater._shadow.items()}
    biases = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "b" in n}
    trained = torch.optim.SGD([*scores.values(), *biases.values()], lr=1.0, momentum=0.9, weight_decay=0.01)
    for step in range(12):
        trained.zero_grad()
        masked = {n: fixed[n] * Choose.apply(s, round(0.25 * s.numel())) for n, s in scores.items()}

        def run(x, masked=masked):
            return torch.func.functional_call(net, masked | biases, (x,))

        loss_at(run, step, dtype=F64).backward()
        trained.step()
    before = indices(model)
    train(model, optimizer, 12)
    assert indices(model) != before
    for name, own in scores.items():
        torch.testing.assert_close(updater._shadow[name], own.detach(), rtol=1e-9, atol=1e-12)
        weight = regrow.sparse_weights(model)[name]
        assert set(weight.indices.tolist()) == smallest(own.detach().abs(), 0.25)
        assert torch.equal(weight.values, fixed[name].take(weight.indices))


def test_edge_popup_leaves_weights_alone_where_a_step_is_skipped():
    model = dense()
    optimizer = sgd(model, fused=True)
    regrow.EdgePopup(model, optimizer, total_steps=STEPS, update_every=1, density=0.25, seed=3)
    before = weights(model)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
    loss_at(model, 0, dtype=F64).backward()
    optimizer.step()
    for name, value in weights(model).items():
        assert torch.equal(value, before[name])


def by_autograd(steps, gate, gated, penalty, decay=0.0):
    """theta and gates of a network trained by autograd through w = gated(theta, s, step), and its weights then."""
    net = mlp(8, 12, 4, dtype=F64)
    theta = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "w" in n}
    gates = {n: gate(p).requires_grad_() for n, p in theta.items()}
    biases = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "b" in n}
    main = torch.optim.SGD([*theta.values(), *biases.values()], lr=0.1, momentum=0.9, weight_decay=0.01)
    side = torch.optim.SGD(gates.values(), lr=0.1, momentum=0.9, weight_decay=decay)
    for step in range(steps):
        main.zero_grad()
        side.zero_grad()
        shown = {n: gated(theta[n], gates[n], step) for n in theta}

        def run(x, shown=shown):
            return torch.func.functional_call(net, shown | biases, (x,))

        (loss_at(run, step, dtype=F64) + penalty(gates, step)).backward()
        main.step()
        side.step()
    with torch.no_grad():
        return gates, {n: gated(theta[n], gates[n], steps) for n in theta}


@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_continuous_sparsification_is_training_through_the_gates(initial):
    def beta(step):
        return 50 ** (step / 15)

    def gated(theta, s, step):
        return theta * torch.sigmoid(beta(step) * s) / torch.sigmoid(torch.tensor(initial, dtype=F64))

    def penalty(gates, step):
        return 0.01 * sum(torch.sigmoid(beta(step) * s).sum() for s in gates.values())

    gates, expected = by_autograd(12, lambda p: torch.full_like(p, initial).detach(), gated, penalty)
    model = dense()
    optimizer = sgd(model, weight_decay=0.01)
    updater = regrow.ContinuousSparsification(
        model, optimizer, total_steps=20, update_every=2, density=0.25, penalty=0.01, initial=initial, temperature=50.0
    )
    train(model, optimizer, 12)
    for name, value in weights(model).items():
        torch.testing.assert_close(updater._gates[name], gates[name].detach(), rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("initial", [-8.0, -2.0])
def test_str_is_training_through_the_threshold(initial):
    def gated(theta, s, step):
        return theta.sign() * torch.relu(theta.abs() - torch.sigmoid(s))

    gates, expected = by_autograd(
        12, lambda p: torch.tensor(initial, dtype=F64), gated, lambda gates, step: 0.0, decay=0.05
    )
    model = dense()
    optimizer = sgd(model, weight_decay=0.01)
    updater = regrow.STR(model, optimizer, total_steps=20, update_every=2, density=0.25, initial=initial, decay=0.05)
    train(model, optimizer, 12)
    for name, value in weights(model).items():
        torch.testing.assert_close(updater._gates[name], gates[name].detach(), rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-11)
    assert initial == -8.0 or any(bool((value == 0).any()) for value in expected.values())


@pytest.mark.parametrize("kind", [regrow.ContinuousSparsification, regrow.STR])
def test_gates_are_multiplied_in_where_weights_stay(kind):
    model = dense()
    optimizer = sgd(model, lr=0.3)
    updater = kind(model, optimizer, total_steps=20, update_every=None, density=0.25)
    train(model, optimizer, 15)
    before, scores = weights(model), {name: updater._score(name, theta) for name, theta in updater._shadow.items()}
    scores = {name: own.clone() for name, own in scores.items()}
    assert len(updater.update()) == 2
    for name, weight in regrow.sparse_weights(model).items():
        assert set(weight.indices.tolist()) == smallest(scores[name], 0.25)
        assert torch.equal(weight.values, before[name].take(weight.indices))
    assert updater.update() == []


def noisy(kind, settings, gate, drawn, mean, penalty, steps=12):
    """The updater's training, and one by autograd with the same noise; micro-batches, and evaluations between steps."""
    model = dense()
    optimizer = sgd(model, weight_decay=0.01)
    updater = kind(model, optimizer, total_steps=20, update_every=2, density=0.25, seed=3, **settings)
    net = mlp(8, 12, 4, dtype=F64)
    theta = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "w" in n}
    gates = {n: gate(p).requires_grad_() for n, p in theta.items()}
    biases = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters() if "b" in n}
    main = torch.optim.SGD([*theta.values(), *biases.values()], lr=0.1, momentum=0.9, weight_decay=0.01)
    side = torch.optim.SGD(gates.values(), lr=0.1, momentum=0.9)
    seen = []
    for step in range(steps):
        noise = {n: u.clone() for n, u in updater._noise.items()}
        seen.append(noise["0.weight"])
        main.zero_grad()
        side.zero_grad()
        shown = {n: drawn(theta[n], gates[n], noise[n]) for n in theta}

        def run(x, shown=shown):
            return torch.func.functional_call(net, shown | biases, (x,))

        (sum(loss_at(run, part, dtype=F64) for part in (step, step + 100)) + penalty(theta, gates)).backward()
        main.step()
        side.step()
        optimizer.zero_grad()
        for part in (step, step + 100):
            loss_at(model, part, dtype=F64).backward()
        optimizer.step()
        with torch.no_grad():
            for name, value in weights(model).items():
                torch.testing.assert_close(updater._gates[name], gates[name].detach(), rtol=1e-8, atol=1e-11)
                torch.testing.assert_close(value, mean(theta[name], gates[name]).detach(), rtol=1e-8, atol=1e-11)
            model.eval()
            loss_at(model, 5, dtype=F64)
            model.train()
    assert not torch.equal(seen[0], seen[1])


def test_l0_is_training_through_hard_concrete_gates():
    beta, gamma, zeta = 2 / 3, -0.1, 1.1

    def hard(s):
        return torch.clamp(s * (zeta - gamma) + gamma, 0, 1)

    def penalty(theta, gates):
        return 0.01 * sum(torch.sigmoid(a - beta * math.log(-gamma / zeta)).sum() for a in gates.values())

    noisy(
        regrow.L0,
        {"penalty": 0.01, "drop_rate": 0.3},
        lambda p: torch.full_like(p, math.log(0.7 / 0.3)).detach(),
        lambda theta, a, u: theta * hard(torch.sigmoid((u + a) / beta)),
        lambda theta, a: theta * hard(torch.sigmoid(a)),
        penalty,
    )


def test_sparse_variational_dropout_is_training_of_mean_and_variance():
    k1, k2, k3 = 0.63576, 1.87320, 1.48695

    def divergence(theta, logs):
        a = logs - torch.log(theta**2)
        return -(k1 * torch.sigmoid(k2 + k3 * a) - 0.5 * torch.log1p(torch.exp(-a)) - k1)

    noisy(
        regrow.SparseVD,
        {"penalty": 1e-5, "initial": -4.0},
        lambda p: torch.full_like(p, -4.0).detach(),
        lambda theta, logs, e: theta + torch.exp(logs / 2) * e,
        lambda theta, logs: theta,
        lambda theta, gates: 1e-5 * sum(divergence(theta[n], gates[n]).sum() for n in theta),
    )


@pytest.mark.parametrize("kind", [regrow.L0, regrow.SparseVD])
def test_noise_is_in_training_alone_and_ends_with_the_gates(kind):
    model = dense()
    optimizer = sgd(model)
    settings = {"initial": -2.0} if kind is regrow.SparseVD else {}
    kept = kind(model, optimizer, total_steps=20, update_every=2, density=0.25, seed=3, **settings)
    x = torch.randn(5, 8, dtype=F64)
    noisy_ones, mean = model(x).detach(), model.eval()(x).detach()
    assert not torch.equal(noisy_ones, mean)
    assert torch.equal(mean, model(x).detach())
    with torch.no_grad():
        assert torch.equal(model.train()(x), mean)
    assert torch.equal(copy.deepcopy(model)(x).detach(), mean)
    train(model, optimizer, 17)
    assert not kept._has_gates
    assert torch.equal(model(x).detach(), model.eval()(x).detach())
