"""What people do with a model beside training it, by the names that docs/works-with.md has for it.

Each program takes a storage. It returns where all is right, which it asserts, and raises where regrow refuses.
"""

import copy
import io
import warnings

import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import regrow
from helpers import mlp, train
from regrow.integrations.averaging import AveragedModel, average
from regrow.integrations.clipping import adaptive_clip_grad_

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
PROGRAMS = {}


def program(name):
    def note(function):
        PROGRAMS[name] = function
        return function

    return note


def trained(storage, steps=5, method=regrow.RigL, **settings):
    """A small network in training, of which the topology moves at every second step."""
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method(
        model, optimizer, **({"total_steps": 40, "update_every": 2} | settings if method is not regrow.Static else {})
    )
    train(model, optimizer, range(steps))
    return model, optimizer


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def is_right(model):
    """It computes what its dense copy computes."""
    close(model(X), regrow.densify(model)(X))


# -- averages


def follow(model, optimizer, mean):
    """An average is updated at each step, and right in the end."""
    for step in range(5, 12):
        train(model, optimizer, [step])
        mean.update_parameters(model)
    is_right(mean.module)


@program("`regrow.integrations.averaging.AveragedModel`: EMA, SWA, target networks")
def ours(storage):
    model, optimizer = trained(storage)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(5, 12):
        train(model, optimizer, [step])
        mean.update_parameters(model)
        is_right(mean.module)
    assert regrow.summary(mean.module).active == regrow.summary(model).active


@program("`regrow.integrations.averaging.average`: federated means, checkpoint soups")
def mean_of_models(storage):
    models = [trained(storage, steps)[0] for steps in (3, 7, 11)]
    mean = average(models)
    is_right(mean)
    dense = [regrow.densify(model).state_dict() for model in models]
    close(regrow.densify(mean)[0].weight, sum(state["0.weight"] for state in dense) / 3)


@program("torch's `AveragedModel`, timm's and Lightning's EMA, while topologies move")
def torchs(storage):
    model, optimizer = trained(storage)
    follow(model, optimizer, torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)))


@program("the same, once topologies stay (`Static`, or after the last update)")
def torchs_at_rest(storage):
    model, optimizer = trained(storage, method=regrow.Static)
    follow(model, optimizer, torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)))


@program("soft updates of a copy, parameter by parameter, while topologies move")
def polyak(storage):
    model, optimizer = trained(storage)
    target = copy.deepcopy(model)
    train(model, optimizer, range(5, 10))
    for there, here in zip(target.parameters(), model.parameters(), strict=True):
        there.data.mul_(0.9).add_(0.1 * here.data)
    target(X)
    is_right(target)


@program("means of state dicts, entry by entry, over topologies of their own")
def mean_of_states(storage):
    models = [trained(storage, steps)[0] for steps in (3, 7)]
    states = [model.state_dict() for model in models]
    mean = {k: torch.stack([s[k].float() for s in states]).mean(0).to(states[0][k].dtype) for k in states[0]}
    target = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    target.load_state_dict(mean)
    is_right(target)


# -- functional


@program("`torch.func.functional_call`")
def functional(storage):
    model, _ = trained(storage)
    close(functional_call(model, dict(model.named_parameters()), (X,)), model(X))


@program("`torch.func.grad`, `vmap`: per-sample gradients")
def per_sample(storage):
    model, _ = trained(storage)
    own = {name: p.detach() for name, p in model.named_parameters()}
    loss = grad(lambda p, x: functional_call(model, p, (x,)).square().sum())
    each = vmap(loss, in_dims=(None, 0))(own, X)
    close(each["0.bias"].sum(0), loss(own, X)["0.bias"])


@program("`torch.func.jvp`, `hessian`")
def forward_mode(storage):
    model, _ = trained(storage)
    twin = regrow.densify(model)
    close(jvp(model, (X,), (torch.ones_like(X),))[1], jvp(twin, (X,), (torch.ones_like(X),))[1])
    close(*(hessian(lambda x, m=m: m(x).square().sum())(X[:1]) for m in (model, twin)))


@program("inner steps with fast weights (MAML)")
def maml(storage):
    """Fast weights of compressed storage are active ones; those of masked storage are dense, as their gradients are."""
    found = []
    model, _ = trained(storage)
    twin, sparse = regrow.densify(model), {}
    for name, weight in regrow.sparse_weights(model).items() if storage == "compressed" else ():
        sparse[name] = torch.zeros(weight.numel).index_fill(0, weight.indices, 1.0).view(weight.shape)
    for network in (model, twin):
        own, masks = dict(network.named_parameters()), sparse if network is twin else {}
        slopes = torch.autograd.grad(network(X).square().sum(), list(own.values()), create_graph=True)
        fast = {n: p - 0.1 * g * masks.get(n, 1) for (n, p), g in zip(own.items(), slopes, strict=True)}
        network.zero_grad()
        functional_call(network, fast, (X,)).square().sum().backward()
        found.append(network[2].bias.grad)
    close(*found)


@program("second derivatives: gradient penalties, Hessian-vector products")
def penalty(storage):
    found = []
    model, _ = trained(storage)
    for network in (model, regrow.densify(model)):
        x = X.clone().requires_grad_()
        network.zero_grad()
        torch.autograd.grad(network(x).sum(), x, create_graph=True)[0].square().sum().backward()
        found.append(network[0].bias.grad)
    close(*found)


@program("`is_grads_batched`, `vectorize=True`, through convolutions")
def batched_gradients(storage):
    model = regrow.sparsify(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), 0.25, seed=0, storage=storage)
    x = torch.randn(1, 3, 4, 4).requires_grad_()
    found = [
        torch.autograd.functional.jacobian(m, x, vectorize=vectorize)
        for m, vectorize in ((model, True), (regrow.densify(model), False))
    ]
    close(*found)


@program("`torch.utils.checkpoint`, re-entrant or not")
def checkpointed(storage):
    model, _ = trained(storage)
    model.zero_grad()
    model(X).sum().backward()
    wanted = model[0].weight.grad.clone()
    for reentrant in (True, False):
        model.zero_grad()
        checkpoint(model, X.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        close(model[0].weight.grad, wanted)


# -- compilers and tracers


@program("`torch.compile`")
def compiled(storage):
    model, _ = trained(storage)
    close(torch.compile(model, backend="eager")(X), model(X))


@program("`torch.export`, and with it `torch.onnx.export`")
def exported(storage):
    model, _ = trained(storage)
    close(torch.export.export(model, (X,)).module()(X), model(X))


@program("`torch.jit.trace`")
def traced(storage):
    model, _ = trained(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(torch.jit.trace(model, X)(X), model(X))


@program("`FlopCounterMode`")
def flops(storage):
    model, _ = trained(storage)
    with FlopCounterMode(display=False) as counter:
        model(X)
    counted = {"masked": 144, "compressed": 36}[storage]  # masked storage computes as a dense layer does
    assert counter.get_total_flops() == 2 * 6 * counted


# -- gradients between backward and step


def stepped(storage, act, method=regrow.RigL):
    model, optimizer = trained(storage, method=method)
    for step in range(5, 11):
        optimizer.zero_grad()
        act(model, step)
        optimizer.step()
    is_right(model)
    return model


def backward(model, step):
    torch.nn.functional.cross_entropy(model(X + step), torch.arange(6) % 4).backward()


def by_hand(model, step):
    own = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(X + step), torch.arange(6) % 4)
    for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
        parameter.grad = gradient


@program("`p.grad` set by hand, growth at random or none (`SET`, `GMP`, ...)")
def hands(storage):
    stepped(storage, by_hand, regrow.SET)


@program("`p.grad` set by hand, growth by gradient or momentum")
def hands_and_growth(storage):
    stepped(storage, by_hand)


@program("clipping by norm or by value, accumulation, noise")
def clipped(storage):
    def act(model, step):
        backward(model, step)
        backward(model, step + 1)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        nn.utils.clip_grad_value_(model.parameters(), 0.05)

    stepped(storage, act)


@program("adaptive clipping by unit, `regrow.integrations.clipping` or others'")
def agc(storage):
    def act(model, step):
        backward(model, step)
        adaptive_clip_grad_(model, 0.01)

    stepped(storage, act)


@program("gradient centralisation")
def centralised(storage):
    def act(model, step):
        backward(model, step)
        for p in model.parameters():
            if p.dim() > 1:
                p.grad.sub_(p.grad.mean(1, keepdim=True))

    stepped(storage, act)


@program("`GradScaler`, and steps that it skips")
def scaled(storage):
    model, optimizer = trained(storage)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step in range(5, 11):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(X + step), torch.arange(6) % 4)
        scaler.scale(loss * (float("inf") if step == 7 else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
    is_right(model)


# -- copies, files, other weights


@program("`copy.deepcopy` of model, optimizer and updater together")
def copied(storage):
    model, optimizer = trained(storage)
    updater = next(hook.__self__ for hook in optimizer._optimizer_step_post_hooks.values())
    model, optimizer, updater = copy.deepcopy((model, optimizer, updater))
    train(model, optimizer, range(5, 9))
    assert updater.step == 9
    is_right(model)


@program("whole models in pickles, with `regrow.safe_globals()`")
def pickled(storage):
    model, _ = trained(storage)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with torch.serialization.safe_globals([nn.Sequential, nn.Linear, nn.Tanh, *regrow.safe_globals()]):
        close(torch.load(file)(X), model(X))


@program("state dicts of the other storage")
def converted(storage):
    other = {"masked": "compressed", "compressed": "masked"}[storage]
    model, _ = trained(other)
    target = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=9, storage=storage)
    target.load_state_dict(model.state_dict())
    close(target(X), model(X))


@program("the best weights loaded again, without the optimizer's state")
def best(storage):
    model, optimizer = trained(storage)
    kept = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(5, 10))
    model.load_state_dict(kept)
    train(model, optimizer, [10])
    is_right(model)


@program("the same, and then `updater.realign()`")
def best_realigned(storage):
    model, optimizer = trained(storage)
    kept = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(5, 10))
    model.load_state_dict(kept)
    next(hook.__self__ for hook in optimizer._optimizer_step_post_hooks.values()).realign()
    train(model, optimizer, [10])
    is_right(model)


@program("a dense state dict, with `strict=False`")
def dense_state(storage):
    model, _ = trained(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(mlp(8, 12, 4, seed=5).state_dict(), strict=False)
    is_right(model)


@program("init functions and merges (LoRA) that write dense weights")
def merged(storage):
    model, _ = trained(storage)
    for layer in (model[0], model[2]):
        layer.weight.data += 0.1
    is_right(model)


@program("`to_empty`, `reset_parameters`: FSDP2's idiom")
def emptied(storage):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    before = [weight.indices for weight in regrow.sparse_weights(model).values()]
    model.to_empty(device="cpu")
    for layer in (model[0], model[2]):
        layer.reset_parameters()
    after = [weight.indices for weight in regrow.sparse_weights(model).values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    for weight in regrow.sparse_weights(model).values():
        weight.enforce()
    is_right(model)


@program("`.to(torch.bfloat16)`")
def halved(storage):
    model, _ = trained(storage)
    assert model.to(torch.bfloat16)(X.to(torch.bfloat16)).isfinite().all()


# -- reparametrisations


@program("`nn.utils.prune` before, by `regrow.export.from_prune`")
def pruned_before(storage):
    plain = mlp(8, 12, 4)
    for layer in (plain[0], plain[2]):
        prune.l1_unstructured(layer, "weight", amount=0.8)
    wanted = plain(X)
    close(regrow.export.from_prune(plain, storage=storage)(X), wanted)


@program("`nn.utils.prune`, `weight_norm`, `spectral_norm` after `sparsify`")
def on_top(storage):
    model, _ = trained(storage)
    parametrizations.spectral_norm(model[0])
    model(X)


@program("`spectral_norm` before `sparsify`")
def spectral_before(storage):
    plain = mlp(8, 12, 4)
    parametrizations.spectral_norm(plain[0])
    model = regrow.sparsify(plain, 0.25, seed=0, storage=storage)
    assert regrow.summary(model).rows[0].storage == "masked"
    model(X).sum().backward()
    is_right(model.eval())  # each forward pass in training goes on with the power iteration


@program("`weight_norm` before `sparsify`")
def weight_norm_before(storage):
    plain = mlp(8, 12, 4)
    parametrizations.weight_norm(plain[0])
    regrow.sparsify(plain, 0.25, seed=0, storage=storage)(X)


@program("quantisation-aware training by `prepare_qat`")
def quantised(storage):
    model, _ = trained(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        ready = torch.ao.quantization.prepare_qat(model.train())
    ready(X).sum().backward()
    assert list(regrow.sparse_weights(ready)) == ["0.weight", "2.weight"]
    assert regrow.check(ready) == []
