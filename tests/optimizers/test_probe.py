"""What an optimizer does is found out without touching it."""

import random

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import regrow
from helpers import assert_same, frozen, loss_at, mlp
from regrow.optimizers.hooks import group_of
from regrow.optimizers.probe import immovable_state, traits_of

SGD, ADAM = torch.optim.SGD, torch.optim.Adam


def probed(make, storage="masked", model=None):
    model = regrow.sparsify(model or mlp(8, 12, 4), 0.3, storage=storage, seed=0)
    optimizer = make(model.parameters())
    weight = next(iter(regrow.sparse_weights(model).values()))
    return traits_of(optimizer, group_of(optimizer, weight), weight)


class Centred(SGD):
    """Takes the mean of each row from its gradient, as Ranger does."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() > 1:
                parameter.grad -= parameter.grad.flatten(1).mean(1).view(-1, *[1] * (parameter.dim() - 1))
        return super().step(closure)


class CentredConvolutions(Centred):
    """Does so for convolutions alone."""

    def step(self, closure=None):
        if self.param_groups[0]["params"][0].dim() > 3:
            return super().step(closure)
        return SGD.step(self, closure)


class FactoredFrom100(SGD):
    """Scales large matrices by the means of their columns."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            if min(parameter.shape) >= 100:
                parameter.grad /= parameter.grad.abs().mean(0, keepdim=True)
        return super().step(closure)


class Cautious(SGD):
    """Makes steps larger by the share of elements whose momentum has another sign than the gradient, zeros included."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad /= (parameter.grad > 0).to(parameter.dtype).mean()
        return super().step(closure)


class ByNorm(SGD):
    """Steps as long as the weight, as LARS: norms do not see zeros."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad *= parameter.detach().norm() / parameter.grad.norm()
        return super().step(closure)


class Noisy(SGD):
    """Adds noise, as Langevin dynamics does."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad += torch.randn_like(parameter)
        return super().step(closure)


def with_lr(kind):
    return lambda parameters: kind(parameters, lr=0.1)


SHAPES = {
    "sgd": (with_lr(SGD), False, False),
    "adam": (ADAM, False, False),
    "adafactor": (torch.optim.Adafactor, True, False),
    "muon": (lambda p: torch.optim.Muon([x for x in p if x.dim() == 2]), True, False),
    "row means": (with_lr(Centred), True, False),
    "large matrices": (with_lr(FactoredFrom100), True, False),
    "shares of elements": (with_lr(Cautious), False, True),
    "norms": (with_lr(ByNorm), False, False),
    "noise": (with_lr(Noisy), False, False),
}


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("kind", SHAPES)
def test_what_steps_depend_on(kind, storage):
    make, reads_shapes, counts_zeros = SHAPES[kind]
    traits = probed(make, storage)
    assert (traits.reads_shapes, traits.counts_zeros) == (reads_shapes, counts_zeros)


def test_convolutions_are_probed_with_their_own_number_of_dimensions():
    convolution = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3))
    assert probed(with_lr(CentredConvolutions), "compressed", convolution).reads_shapes
    assert not probed(with_lr(CentredConvolutions), "compressed").reads_shapes


MAGNITUDES = {
    "sgd": (lambda p: SGD(p, lr=0.1, momentum=0.9), set()),
    "amsgrad": (lambda p: ADAM(p, amsgrad=True), {"exp_avg_sq", "max_exp_avg_sq"}),
    "adamax": (torch.optim.Adamax, {"exp_inf"}),
    "adadelta": (torch.optim.Adadelta, {"square_avg", "acc_delta"}),
    "adagrad, whose state is made with it": (torch.optim.Adagrad, {"sum"}),
    "rprop": (torch.optim.Rprop, {"step_size"}),
    "asgd, which keeps averages of weights": (torch.optim.ASGD, set()),
}


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_state_that_is_never_negative(kind):
    make, names = MAGNITUDES[kind]
    assert probed(make).magnitudes == names


class Coded(SGD):
    """Keeps a byte for each element of large parameters, or a flat copy."""

    kept = staticmethod(lambda parameter: parameter.detach().to(torch.uint8))

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            if parameter.numel() >= 4096:
                self.state[parameter]["kept"] = self.kept(parameter)
        return super().step(closure)


class Flat(Coded):
    kept = staticmethod(lambda parameter: parameter.detach().flatten())


class Own(torch.Tensor):
    """A tensor of another class."""


class Wrapped(Coded):
    kept = staticmethod(lambda parameter: parameter.detach().as_subclass(Own))


@pytest.mark.parametrize("kind", [Coded, Flat, Wrapped])
def test_state_that_cannot_be_moved(kind):
    assert probed(with_lr(kind)).immovable == ("kept",)
    parameter = torch.ones(64, 64)
    assert immovable_state(parameter, {"kept": kind.kept(parameter), "step": torch.tensor(1.0)}) == ["kept"]


def test_histories_of_all_parameters_are_not_state_of_elements():
    assert probed(torch.optim.LBFGS).immovable == ()


class Strange(SGD):
    """Needs what only training has."""

    def step(self, closure=None):
        raise RuntimeError("not here")


class Holding(SGD):
    """Sees the model."""

    model: torch.nn.Module


def test_what_cannot_be_probed_tells_nothing():
    def holding(parameters):
        optimizer = Holding(parameters, lr=0.1)
        optimizer.model = torch.nn.Linear(2, 2)
        return optimizer

    assert probed(with_lr(Strange)) is None
    assert probed(holding) is None


def test_a_probe_leaves_optimizer_model_random_numbers_and_hooks_alone():
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, storage="masked", seed=0)
    optimizer = Noisy(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.extra = {"list": [torch.ones(3)], "parameters": list(model.parameters())}
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    for step in range(2):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
        scheduler.step()
    called = []
    handles = [
        optimizer.register_step_post_hook(lambda *_: called.append("own")),
        register_optimizer_step_post_hook(lambda *_: called.append("of all")),
    ]
    before = frozen([optimizer.state_dict(), model.state_dict(), optimizer.extra])
    states = torch.get_rng_state(), random.getstate()
    attributes = {name: id(value) for name, value in vars(optimizer).items()}
    weight = regrow.sparse_weights(model)["0.weight"]
    assert traits_of(optimizer, group_of(optimizer, weight), weight) is not None
    for handle in handles:
        handle.remove()
    assert called == []
    assert optimizer.param_groups[0]["lr"] == 0 == scheduler.get_last_lr()[0]
    assert_same(before, [optimizer.state_dict(), model.state_dict(), optimizer.extra])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert attributes == {name: id(value) for name, value in vars(optimizer).items()}


def test_settings_that_change_are_probed_anew():
    model = regrow.sparsify(mlp(8, 12, 4), 0.3, storage="masked", seed=0)
    weight = regrow.sparse_weights(model)["0.weight"]
    optimizer = ADAM(model.parameters())
    first = traits_of(optimizer, group_of(optimizer, weight), weight)
    assert traits_of(optimizer, group_of(optimizer, weight), weight) is first
    optimizer.param_groups[0]["amsgrad"] = True
    assert "max_exp_avg_sq" in traits_of(optimizer, group_of(optimizer, weight), weight).magnitudes


TIMM = {
    "cadamw": (False, True),
    "clion": (False, True),
    "lamb": (False, False),
    "lars": (False, False),
    "adafactorbv": (True, False),
    "adamp": (True, False),
    "sgdp": (True, False),
    "kron": (True, False),
}


@pytest.mark.parametrize("kind", TIMM)
def test_optimizers_of_timm(kind):
    optim = pytest.importorskip("timm.optim")
    traits = probed(lambda p: optim.create_optimizer_v2(list(p), opt=kind, lr=0.01, momentum=0.9))
    assert (traits.reads_shapes, traits.counts_zeros) == TIMM[kind]


OTHERS = {"ranger": (True, False), "came": (True, False), "adafactor": (True, False), "stableadamw": (False, True)}


@pytest.mark.parametrize("kind", OTHERS)
def test_optimizers_of_pytorch_optimizer(kind):
    package = pytest.importorskip("pytorch_optimizer")
    traits = probed(lambda p: package.load_optimizer(kind)(p, lr=0.01))
    assert (traits.reads_shapes, traits.counts_zeros) == OTHERS[kind]


def test_8_bit_state_of_torchao():
    optim = pytest.importorskip("torchao.optim")
    assert probed(optim.AdamW8bit).immovable == ("exp_avg", "exp_avg_sq")
