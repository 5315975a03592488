"""Small models whose gradients can be written by hand, and comparisons that see every bit."""

import copy
import itertools

import torch
from hypothesis import settings
from torch import nn

import regrow

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, database=None)


class Fed(nn.Module):
    """One row of weights a layer, whose gradient is exactly what is fed: loss = sum of weight * gradient."""

    def __init__(self, dtype=torch.float64, **rows):
        super().__init__()
        for name, row in rows.items():
            self.register_parameter(name, nn.Parameter(torch.tensor([row], dtype=dtype)))

    def forward(self, **gradients):
        weights = {name: getattr(self, name) for name in gradients}
        return sum((w * torch.as_tensor(gradients[name], dtype=w.dtype)).sum() for name, w in weights.items())


def mask_of(numel, active):
    mask = torch.zeros(1, numel, dtype=torch.bool)
    mask[0, list(active)] = True
    return mask


def fed(active, dtype=torch.float64, **rows):
    """A sparse `Fed`; active: layer name -> active positions."""
    masks = {name: mask_of(len(row), active[name]) for name, row in rows.items()}
    return masked(Fed(dtype, **rows), None, init=masks)


def feed(model, optimizer, scale=1.0, set_to_none=True, **gradients):
    """One optimizer step with these gradients."""
    optimizer.zero_grad(set_to_none=set_to_none)
    (model(**gradients) * scale).backward()
    optimizer.step()


def mlp(*sizes, seed=0, dtype=torch.float32, bias=True):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=bias, dtype=dtype) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())][:-1])


def sparse_mlp(*sizes, density=0.3, seed=0, dtype=torch.float32):
    return masked(mlp(*(sizes or (8, 12, 4)), seed=seed, dtype=dtype), density, seed=seed)


def loss_at(model, step, inputs=8, classes=4, dtype=torch.float32):
    """The loss of a batch that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, inputs, generator=generator, dtype=dtype)
    return nn.functional.cross_entropy(model(x), torch.randint(classes, (16,), generator=generator))


def train(model, optimizer, steps, dtype=torch.float32):
    for step in steps:
        optimizer.zero_grad()
        loss_at(model, step, dtype=dtype).backward()
        optimizer.step()


def sgd(model, lr=0.1, **more):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, **more)


def momentum(model, optimizer, **more):
    """Sparse momentum that updates every second step."""
    arguments = {"total_steps": 100, "update_every": 2} | more
    return regrow.SparseMomentum(model, optimizer, **arguments)


def with_updater(model, optimizer=torch.optim.SGD, static=False, update_every=2, lr=0.05, **settings):
    """An optimizer and its updater: `Static`, or `SparseMomentum`."""
    settings = settings or {"momentum": 0.9}
    trained = optimizer(model.parameters(), lr=lr, **settings)
    if static:
        return trained, regrow.Static(model, trained)
    return trained, momentum(model, trained, update_every=update_every)


def total_active(model):
    return sum(weight.active for weight in regrow.sparse_weights(model).values())


def indices(model):
    return {name: weight.indices.tolist() for name, weight in regrow.sparse_weights(model).items()}


def assert_inactive_are_zero(model, optimizer=None):
    """Inactive weights are 0, their gradients too, and so is the optimizer's state of them."""
    weights = regrow.sparse_weights(model)
    assert any(weight.density < 1 for weight in weights.values()), "nothing is tested"
    for name, weight in weights.items():
        parameter, off = weight.parameter, ~weight.mask
        assert not parameter.detach()[off].any(), name
        if optimizer is None:
            continue
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                assert not value[off].any(), (name, key)


def frozen(tree):
    """A deep copy of nested dicts, lists and tensors."""
    return copy.deepcopy(tree)


def assert_same(left, right, path="", exclude=()):
    """Equal to the last bit, NaN equal to NaN."""
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor), path
        assert left.dtype == right.dtype, path
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, msg=lambda m: f"{path}: {m}")
    elif isinstance(left, dict):
        assert list(left) == list(right), path
        for key in left:
            if key not in exclude:
                assert_same(left[key], right[key], f"{path}.{key}", exclude)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}[{index}]", exclude)
    else:
        assert left == right, path


def hooks(model):
    """How many hooks of any kind a model and its parameters have, and the names of its buffers."""
    modules = {
        name: (
            len(m._forward_hooks),
            len(m._forward_pre_hooks),
            len(m._backward_hooks),
            sorted(m._buffers),
            sorted(m.__dict__),
        )
        for name, m in model.named_modules()
    }
    return modules, {name: len(p._post_accumulate_grad_hooks or ()) for name, p in model.named_parameters()}


def picture(model, optimizer=None, updater=None):
    """Everything that must stay as it is when something is refused."""
    parts = {"model": model.state_dict(), "hooks": hooks(model)}
    if optimizer is not None:
        parts["optimizer"] = optimizer.state_dict()
        parts["optimizer hooks"] = len(optimizer._optimizer_step_post_hooks)
    if updater is not None:
        parts["updater"] = updater.state_dict()
    return frozen(parts)


def masked(model, density, **settings):
    """`regrow.sparsify` in masked storage, whatever the layers."""
    return regrow.sparsify(model, density, storage="masked", **settings)
