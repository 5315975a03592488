"""Scenarios of data parallel training, each run by both ranks; `test_data_parallel` asks what became of them."""

import copy
import itertools
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import regrow
from helpers import mlp
from regrow.lab import models
from regrow.updaters import GatheredState
from updaters import test_methods

STEPS, EVERY = 11, 1


@contextmanager
def alone():
    """As if there was no process group: for what a single process does with the whole batch."""
    with patch("torch.distributed.is_initialized", lambda: False):
        yield


def batch(step, shape, classes, rank=None, size=8):
    """One of the step's batch's halves, or (rank None) all of it."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (size,), generator=generator)
    half = slice(None) if rank is None else slice(rank * size // 2, (rank + 1) * size // 2)
    return x[half], y[half]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)


def adam(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def momentum(model, optimizer, **more):
    return regrow.SparseMomentum(model, optimizer, **{"total_steps": 2 * STEPS, "update_every": EVERY} | more)


def train(network, optimizer, rank, steps=STEPS, shape=(8,), classes=4, clip=None, size=8):
    for step in range(steps):
        x, y = batch(step, shape, classes, rank, size)
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()


def assert_close(model, other):
    """Same topology to the bit, weights to rounding, of every parameter."""
    ours, theirs = regrow.sparse_weights(model), regrow.sparse_weights(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight.indices, theirs[name].indices), name
    for (name, value), reference in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_on_ranks(model):
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        there = tensor.detach().to(torch.float64).contiguous()
        dist.broadcast(there, src=0)
        assert torch.equal(tensor.detach().to(torch.float64), there), name


def compare(build, rank, storage, optimize=sgd, wrap_first=True, data=None, **more):
    """Trains on two ranks, which start with other topologies and values, and once alone with the doubled batch."""
    data = data or {}
    torch.manual_seed(rank)
    model = regrow.sparsify(build(), 0.2, storage=storage, seed=rank)
    network = DistributedDataParallel(model) if wrap_first else model
    optimizer = optimize(model)
    updater = momentum(network, optimizer, **more)
    network = network if wrap_first else DistributedDataParallel(model)
    train(network, optimizer, rank, **data)
    assert any(row["grown"] for row in updater.history)
    if rank == 0:
        with alone():
            torch.manual_seed(0)
            single = regrow.sparsify(build(), 0.2, storage=storage, seed=0)
            trained = optimize(single)
            momentum(single, trained, **more)
            train(single, trained, None, **data)
        assert_close(model, single)
    assert_same_on_ranks(model)


def lenet5():
    return models.build("lenet-5-caffe").double()


LENET = dict(shape=(1, 28, 28), classes=10, size=4)


def lenet5_masked(rank, folder):
    compare(lenet5, rank, "masked", data=LENET)


def lenet5_compressed(rank, folder):
    compare(lenet5, rank, "compressed", data=LENET)


def wide_convolution():
    """With channels enough for gradients by Winograd's algorithm."""
    body = [nn.Conv2d(1, 80, 3), nn.Tanh(), nn.Conv2d(80, 84, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(84, 4)).double()


def gradients_by_winograds_algorithm(rank, folder):
    data = {"shape": (1, 6, 6), "size": 4}
    compare(wide_convolution, rank, "compressed", data=data, update_every=3, window=2, winograd=True)


def small():
    return mlp(8, 12, 4, dtype=torch.float64)


def made_before_or_after_wrapping_with_either_optimizer(rank, folder):
    for storage, optimize in (("masked", adam), ("compressed", adam), ("masked", sgd), ("compressed", sgd)):
        for window in ("all", 2):
            how = {"window": window, "update_every": 3, "data": {"clip": 0.3}}
            compare(small, rank, storage, optimize, wrap_first=window == "all", **how)


def every_method(rank, folder):
    for name, storage in test_methods.STORED:
        model, optimizer, _ = test_methods.make(name, storage)
        train(DistributedDataParallel(model), optimizer, rank, test_methods.STEPS)
        try:
            if rank == 0:
                with alone():
                    single, trained, _ = test_methods.make(name, storage)
                    train(single, trained, None, test_methods.STEPS)
                assert_close(model, single)
            assert_same_on_ranks(model)
        except AssertionError as error:
            raise AssertionError(f"{name}, {storage}: {error}") from error


def weights_become_compressed_at_the_same_update(rank, folder):
    """Wherever the updater is made, and with layers that come back to masked storage, as those of AC/DC do."""

    def made(wrap_first):
        torch.manual_seed(rank)
        model = regrow.sparsify(small(), 1.0, compress_below=0.3, seed=rank)
        network = DistributedDataParallel(model) if wrap_first is True else model
        optimizer = sgd(model)
        updater = regrow.ACDC(network, optimizer, total_steps=20, update_every=2, density=0.25)
        return model, DistributedDataParallel(model) if wrap_first is False else network, optimizer, updater

    for wrap_first in (True, False):
        model, network, optimizer, updater = made(wrap_first)
        kinds = []
        for steps in (4, 16):
            train(network, optimizer, rank, steps)
            kinds.append([weight.storage for weight in regrow.sparse_weights(model).values()])
        assert "compressed" in kinds[-1]
        if rank == 0:
            with alone():
                single, plain, trained, _ = made(None)
                for steps in (4, 16):
                    train(plain, trained, None, steps)
            assert_close(model, single)
        assert_same_on_ranks(model)
        assert updater.history


def accumulated(network, rank, synchronises):
    """A step of four micro-batches; all but the last without synchronisation, or all with it."""
    optimizer = sgd(network)
    momentum(network, optimizer, update_every=3, window=2)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(4):
            x, y = batch(4 * step + part, (8,), 4, rank)
            quiet = isinstance(network, DistributedDataParallel) and part < 3 and not synchronises
            with network.no_sync() if quiet else nullcontext():
                (cross_entropy(network(x), y) / 4).backward()
        optimizer.step()


def gradients_are_accumulated(rank, folder):
    for storage in ("masked", "compressed"):
        with alone():
            single = regrow.sparsify(small(), 0.2, storage=storage, seed=0)
            accumulated(single, None, True)
        for synchronises in (True, False):
            for views in (True, False):
                model = regrow.sparsify(small(), 0.2, storage=storage, seed=0)
                accumulated(DistributedDataParallel(model, gradient_as_bucket_view=views), rank, synchronises)
                assert_close(model, single)


class Branches(nn.Module):
    """The last features say which of two layers is used: each rank goes its own way, a third layer is never used."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 4, dtype=torch.float64) for _ in range(3))

    def forward(self, x, branch):
        return self.first(x) if branch == 0 else self.second(x)


def unused_parameters_count_as_zeros(rank, folder):
    for storage in ("masked", "compressed"):
        torch.manual_seed(0)
        model = regrow.sparsify(Branches(), 0.4, storage=storage, seed=0)
        single = copy.deepcopy(model)
        network = DistributedDataParallel(model, find_unused_parameters=True)
        optimizer = sgd(model)
        momentum(network, optimizer, update_every=3, window=2)
        with alone():
            trained = sgd(single)
            momentum(single, trained, update_every=3, window=2)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = batch(step, (8,), 4, rank)
            cross_entropy(network(x, rank), y).backward()
            optimizer.step()
            with alone():
                trained.zero_grad()
                halves = [batch(step, (8,), 4, half) for half in range(2)]
                sum(cross_entropy(single(x, half), y) / 2 for half, (x, y) in enumerate(halves)).backward()
                trained.step()
        assert model.third.weight.grad is None
        assert_close(model, single)


class Nested(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return {"logits": self.net(x)}["logits"]


def a_nested_net_is_refused_with_the_remedy_that_works(rank, folder):
    outer = Nested(regrow.sparsify(small(), 0.2, storage="compressed", seed=0))
    network = DistributedDataParallel(outer)
    optimizer = sgd(outer)
    momentum(outer.net, optimizer)
    with pytest.raises(RuntimeError, match=r"averages 0\.weight.*exclude_from_ddp.*Nested"):
        network(batch(0, (8,), 4, rank)[0])
    for handed_over in (lambda outer: outer, lambda outer: outer.net):
        outer = Nested(regrow.sparsify(small(), 0.2, storage="compressed", seed=0))
        regrow.distributed.exclude_from_ddp(outer)
        network = DistributedDataParallel(outer)
        optimizer = sgd(outer)
        momentum(handed_over(outer), optimizer)
        train(network, optimizer, rank)
        with alone():
            single = regrow.sparsify(small(), 0.2, storage="compressed", seed=0)
            trained = sgd(single)
            momentum(single, trained)
            train(single, trained, None)
        assert_close(outer.net, single)


def nothing_dense_is_trained(rank, folder):
    """DistributedDataParallel refuses such a model, and nothing is left for it to do."""
    model = regrow.sparsify(mlp(8, 12, 4, dtype=torch.float64, bias=False), 0.3, storage="compressed", seed=rank)
    with pytest.raises(RuntimeError, match="not needed"):
        DistributedDataParallel(model)
    optimizer = sgd(model)
    momentum(model, optimizer)
    train(model, optimizer, rank)
    with alone():
        single = regrow.sparsify(mlp(8, 12, 4, dtype=torch.float64, bias=False), 0.3, storage="compressed", seed=0)
        trained = sgd(single)
        momentum(single, trained)
        train(single, trained, None)
    assert_close(model, single)


def bfloat16_and_batch_norm(rank, folder):
    """Statistics are each rank's own, so that only the ranks are the same, not what one process would have."""
    for storage in ("masked", "compressed"):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
        model = regrow.sparsify(nn.Sequential(*layers), 0.2, storage=storage, seed=0)
        network, optimizer = DistributedDataParallel(model), sgd(model)
        updater = momentum(network, optimizer, update_every=2)
        for step in range(STEPS):
            x, y = batch(step, (1, 8, 8), 4, rank)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                cross_entropy(network(x.float()), y).backward()
            optimizer.step()
        assert len({row["step"] for row in updater.history}) == 5
        for parameter in model.parameters():
            there = parameter.detach().clone()
            dist.broadcast(there, src=0)
            assert torch.equal(parameter, there)
            assert torch.isfinite(parameter).all()


def ranks_that_differ_are_stopped(rank, folder):
    model = regrow.sparsify(small(), 0.2, storage="masked", seed=0)
    network, optimizer = DistributedDataParallel(model), sgd(model)
    momentum(network, optimizer, update_every=4)
    train(network, optimizer, rank, steps=3)
    weight = regrow.sparse_weights(model)["2.weight"]
    if rank == 1:
        largest = weight.indices[weight.values.abs().argmax()]
        weight.move(largest[None], (~weight.mask).reshape(-1).nonzero()[-1], {}, {})
    with pytest.raises(RuntimeError, match=r"2\.weight differs from rank 0's on ranks 1 at step 4"):
        train(network, optimizer, rank, steps=1)


def signs_that_differ_are_seen_in_any_precision(rank, folder):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = regrow.sparsify(mlp(8, 12, 4), 0.2, storage="masked", seed=0).to(dtype)
        optimizer = sgd(model)
        updater = momentum(model, optimizer, update_every=None)
        model(batch(0, (8,), 4)[0].to(dtype)).sum().backward()
        optimizer.step()
        if rank == 1:
            weight = regrow.sparse_weights(model)["2.weight"]
            weight.write(-weight.values)
        with pytest.raises(RuntimeError, match=r"2\.weight differs from rank 0's on ranks 1"):
            updater.update()


def a_frozen_layer_stays_as_it_is(rank, folder):
    for storage in ("masked", "compressed"):
        model = regrow.sparsify(small(), 0.2, storage=storage, seed=rank)
        model[0].weight.requires_grad_(False)
        network, optimizer = DistributedDataParallel(model), sgd(model)
        momentum(network, optimizer)
        before = regrow.sparse_weights(model)["0.weight"].values
        train(network, optimizer, rank, 3)
        assert torch.equal(before, regrow.sparse_weights(model)["0.weight"].values)
        assert not model[0].weight.requires_grad
        assert_same_on_ranks(model)


def without_an_updater_nobody_keeps_ranks_alike(rank, folder):
    model = regrow.sparsify(small(), 0.2, storage="compressed", seed=0)
    x, _ = batch(0, (8,), 4, rank)
    with pytest.raises(RuntimeError, match=r"2 processes.*regrow.Static"):
        DistributedDataParallel(model)(x)
    regrow.Static(model, sgd(model))
    model(x).sum().backward()
    assert_gradients_are_means(model, passes=1)
    with pytest.raises(RuntimeError, match="Static"):
        copy.deepcopy(model)(x)  # a copy is another model
    model.eval()(x).sum().backward()
    assert_gradients_are_means(model, passes=2)


def assert_gradients_are_means(model, passes):
    """Of both halves of the batch, added up over so many passes; with the same bits on all ranks."""
    with alone():
        single = regrow.sparsify(small(), 0.2, storage="compressed", seed=0)
        (single(batch(0, (8,), 4)[0]).sum() * passes / 2).backward()
    for name, weight in regrow.sparse_weights(model).items():
        gradient, there = weight.parameter.grad, weight.parameter.grad.clone()
        dist.broadcast(there, src=0)
        assert torch.equal(gradient, there)
        torch.testing.assert_close(gradient, single.get_parameter(name).grad, rtol=1e-12, atol=1e-12)


def few_bytes_travel(rank, folder):
    """All-reduces of steps and of updates, as they are called: steps at 5 % send at most 6 % of the dense weights."""
    sent = []

    def counted(tensor, *rest, **more):
        sent.append(tensor.nbytes)
        return all_reduce(tensor, *rest, **more)

    all_reduce = dist.all_reduce
    model = regrow.sparsify(mlp(200, 100, 10), 0.05, storage="compressed", seed=0)
    optimizer = sgd(model)
    momentum(model, optimizer, update_every=2, total_steps=3, window=1)
    with patch("torch.distributed.all_reduce", counted):
        for _ in range(2):
            model(torch.randn(4, 200)).sum().backward()
            step, sent[:] = sum(sent), []
            optimizer.step()
    weights = 200 * 100 + 100 * 10
    expected = regrow.distributed.gradient_bytes(model)
    assert (expected.sparse, expected.other, expected.dense) == (4 * weights // 20, 4 * 110, 4 * (weights + 110))
    assert expected.sparse <= step <= 0.06 * 4 * weights
    assert sum(sent) <= 4 * weights + 100  # the update's momentum, once, and its counts


def the_loop_of_the_page_runs(rank, folder):
    page = Path(__file__).parents[2] / "docs" / "distributed.md"
    loop, _ = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    torch.manual_seed(rank)
    names = {"torch": torch, "regrow": regrow, "model": mlp(8, 12, 4, dtype=torch.float64)}
    names["batches"] = [batch(step, (8,), 4, rank) for step in range(6)]
    with patch("torch.distributed.init_process_group"):
        exec(loop.replace("70_000", "6").replace("703", "2"), names)
    assert regrow.summary(names["model"]).active == 7
    assert_same_on_ranks(names["model"])


def a_checkpoint_holds_the_updater_of_every_rank(rank, folder):
    """What goes on between two updates ends as what was not interrupted, to the bit."""

    def parts():
        model = regrow.sparsify(mlp(8, 12, 4, dtype=torch.float64), 0.2, storage="masked", seed=0)
        network, optimizer = DistributedDataParallel(model), sgd(model)
        return network, optimizer, momentum(network, optimizer, update_every=6)

    def go_on(network, optimizer, steps):
        for step in steps:
            x, y = batch(step, (8,), 4, rank)
            optimizer.zero_grad()
            cross_entropy(network(x), y).backward()
            optimizer.step()

    network, optimizer, updater = parts()
    go_on(network, optimizer, range(4))
    states = {"network": network, "optimizer": optimizer, "updater": GatheredState(updater)}
    saved = [copy.deepcopy({name: one.state_dict() for name, one in states.items()})]
    assert len(saved[0]["updater"]["updaters"]) == (2 if rank == 0 else 0)
    dist.broadcast_object_list(saved)
    go_on(network, optimizer, range(4, 8))
    again, other, updater_again = parts()
    for name, one in {"network": again, "optimizer": other, "updater": GatheredState(updater_again)}.items():
        one.load_state_dict(saved[0][name])
    go_on(again, other, range(4, 8))
    assert sum(row["grown"] for row in updater.history) > 0
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"saved by 1 processes.*loaded by 2; resume with 1"):
        GatheredState(updater_again).load_state_dict({"updaters": saved[0]["updater"]["updaters"][:1]})


SCENARIOS = [
    lenet5_masked,
    lenet5_compressed,
    gradients_by_winograds_algorithm,
    made_before_or_after_wrapping_with_either_optimizer,
    every_method,
    weights_become_compressed_at_the_same_update,
    gradients_are_accumulated,
    unused_parameters_count_as_zeros,
    a_nested_net_is_refused_with_the_remedy_that_works,
    nothing_dense_is_trained,
    bfloat16_and_batch_norm,
    ranks_that_differ_are_stopped,
    signs_that_differ_are_seen_in_any_precision,
    a_frozen_layer_stays_as_it_is,
    without_an_updater_nobody_keeps_ranks_alike,
    few_bytes_travel,
    the_loop_of_the_page_runs,
    a_checkpoint_holds_the_updater_of_every_rank,
]
