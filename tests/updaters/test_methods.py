"""Every method keeps what its definition promises. A new method joins with one row of METHODS."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_inactive_are_zero, assert_same, frozen, indices, loss_at, mlp, picture, total_active

STEPS, EVERY = 20, 2
SIZES = (8, 12, 4)
NUMEL = 8 * 12 + 12 * 4
START, FINAL = 0.25, 0.25


def constant(step: int) -> set[int]:
    return {round(START * NUMEL)}


def cubic(step: int) -> set[int]:
    """Zhu & Gupta's density at the last update, from all weights at 0 to a quarter at three quarters of the steps."""
    last = min(step, STEPS - 1) // EVERY * EVERY
    return {round((FINAL + (1 - FINAL) * max(1 - last / 15, 0) ** 3) * NUMEL)} if last else {NUMEL}


def sigmoid(step: int) -> set[int]:
    """CHTss: from all weights at 0 to a quarter at three quarters of the steps, each layer by itself."""
    last = min(step, STEPS - 1) // EVERY * EVERY
    s = [1 / (1 + math.exp(-6 * x)) for x in (2 * min(last / 15, 1) - 1, -1, 1)]
    return {round((1 + (FINAL - 1) * (s[0] - s[1]) / (s[2] - s[1])) * NUMEL)} if last else {NUMEL}


def han(step: int) -> set[int]:
    """Rounds at steps 8, 12 and 16."""
    rounds = (step >= 8) + (step >= 12) + (step >= 16)
    return {round(FINAL ** (rounds / 3) * NUMEL)}


def one_cut(step: int) -> set[int]:
    """All weights until the first update at or after step 15."""
    return {round(FINAL * NUMEL) if step >= 16 else NUMEL}


def alternating(step: int) -> set[int]:
    """Updates at 2, 4, ...: sparse, dense, sparse, dense, sparse, dense, then dense twice as long, then sparse."""
    sparse = {2, 3, 6, 7, 10, 11, 18, 19, 20}
    return {round(FINAL * NUMEL) if step in sparse else NUMEL}


def soft_bound(step: int) -> set[int]:
    """A half more from the first update on, a quarter more from step 11.25, the bound itself from step 15."""
    bounds = [round(START * 96), round(START * 48)]
    last = step // EVERY * EVERY
    rate = 0 if last in (0, 16, 18, 20) else 0.25 if last > 11.25 else 0.5
    return {sum(bound + math.ceil(rate * bound) for bound in bounds)}


@dataclass(frozen=True)
class Method:
    """One row: how the updater is made, and what its definition says of it."""

    make: Callable[..., Any]
    settings: dict[str, Any] = field(default_factory=dict)
    density: float = START
    total: Callable[[int], set[int]] = constant
    """How many weights the network may have after a step."""
    storages: tuple[str, ...] = ("masked", "compressed")
    random: bool = False
    keeps_momentum: bool = False
    needs_momentum: bool = False
    takes_seed: bool = True
    moves: bool = True
    grows: bool = True
    hidden: bool = False
    """Whether inactive weights live on, and come back as they were."""
    reads_activity: bool = False
    """Whether it reads inputs and gradients of outputs of layers, which gradients that are set by hand do not show."""

    def attach(self, model, optimizer, **more):
        settings = {"total_steps": STEPS, "update_every": EVERY, **self.settings}
        if self.takes_seed:
            settings["seed"] = 3
        return self.make(model, optimizer, **{**settings, **more})


def static(model, optimizer, **settings):
    assert settings["total_steps"] > 0
    return regrow.Static(model, optimizer)


DENSE = dict(density=1.0, storages=("masked",), takes_seed=False)
SPARSE_MOMENTUM = dict(make=regrow.SparseMomentum, needs_momentum=True)
METHODS = {
    "static": Method(static, moves=False, takes_seed=False),
    "sparse-momentum": Method(**SPARSE_MOMENTUM, keeps_momentum=True),
    "sparse-momentum-gradient": Method(**SPARSE_MOMENTUM, settings={"growth": "gradient"}),
    "sparse-momentum-sampled": Method(
        **SPARSE_MOMENTUM, settings={"growth": "sampled-gradient"}, random=True, reads_activity=True
    ),
    "sparse-momentum-random": Method(**SPARSE_MOMENTUM, settings={"growth": "random"}, random=True),
    "sparse-momentum-anew": Method(**SPARSE_MOMENTUM, settings={"inherit_momentum": False}),
    "sparse-momentum-global": Method(
        **SPARSE_MOMENTUM, settings={"growth": "global-momentum", "pruning": "global-magnitude"}, keeps_momentum=True
    ),
    "sparse-momentum-neuron": Method(**SPARSE_MOMENTUM, settings={"per_neuron": True}, keeps_momentum=True),
    **{
        f"sparse-momentum-share-{share}": Method(
            regrow.SparseMomentum, settings={"redistribution": share}, needs_momentum=True, keeps_momentum=True
        )
        for share in ("gradient", "magnitude", "non-zeros", "none")
    },
    "magnitude-gradient": Method(
        regrow.SparseMomentum, settings={"redistribution": "magnitude", "growth": "gradient", "per_neuron": True}
    ),
    "set": Method(regrow.SET, random=True),
    "cht": Method(regrow.CHT),
    "cht-nodes": Method(regrow.CHT, settings={"score": "ch3-l3n"}),
    "chts": Method(regrow.CHTs, random=True),
    "chts-relative": Method(regrow.CHTs, settings={"removal": "relative-importance", "score": "ch3-l3p"}, random=True),
    "chtss": Method(
        regrow.CHTss, settings={"density": FINAL}, total=sigmoid, **DENSE | {"takes_seed": True}, random=True
    ),
    "deep-rewiring": Method(regrow.DeepRewiring, settings={"l1": 0.1, "noise": 0.1}, random=True),
    "deep-rewiring-layer": Method(
        regrow.DeepRewiring, settings={"l1": 0.1, "noise": 0.1, "scope": "local"}, random=True
    ),
    "dsr": Method(regrow.DSR, settings={"threshold": 0.1, "prune_rate": 0.3}, random=True),
    "rigl": Method(regrow.RigL),
    "rigl-itop": Method(regrow.RigLITOP),
    "gse": Method(regrow.GSE, random=True, reads_activity=True),
    "gse-global": Method(regrow.GSE, settings={"scope": "global"}, random=True, reads_activity=True),
    "gse-uniform": Method(regrow.GSE, settings={"sampling": "uniform", "candidates": 0.5}, random=True),
    "mest": Method(regrow.MEST, total=soft_bound, random=True),
    "mest-em": Method(regrow.MEST, settings={"soft_bound": False}, random=True),
    "gmp": Method(regrow.GMP, settings={"density": FINAL}, total=cubic, grows=False, **DENSE),
    "gmp-network": Method(
        regrow.GMP, settings={"density": FINAL, "scope": "global"}, total=cubic, grows=False, **DENSE
    ),
    "forgetting": Method(regrow.Forgetting, settings={"density": FINAL}, total=one_cut, grows=False, **DENSE),
    "karnin": Method(regrow.Karnin, settings={"density": FINAL}, total=one_cut, grows=False, **DENSE),
    "powerpropagation": Method(regrow.Powerpropagation, settings={"density": FINAL}, total=cubic, grows=False, **DENSE),
    "cs": Method(regrow.ContinuousSparsification, settings={"density": FINAL}, total=one_cut, hidden=True, **DENSE),
    "str": Method(regrow.STR, settings={"density": FINAL}, total=one_cut, hidden=True, **DENSE),
    "l0": Method(
        regrow.L0,
        settings={"density": FINAL},
        total=one_cut,
        hidden=True,
        random=True,
        **DENSE | {"takes_seed": True},
    ),
    "sparse-vd": Method(
        regrow.SparseVD,
        settings={"density": FINAL, "initial": -2.0},
        total=one_cut,
        hidden=True,
        random=True,
        **DENSE | {"takes_seed": True},
    ),
    "edge-popup": Method(
        regrow.EdgePopup,
        settings={"density": FINAL},
        hidden=True,
        random=True,
        **DENSE | {"total": constant, "takes_seed": True},
    ),
    "han": Method(regrow.Han, settings={"density": FINAL}, total=han, grows=False, **DENSE),
    "ac-dc": Method(regrow.ACDC, settings={"density": FINAL, "phase": 0.1}, total=alternating, **DENSE),
    "granet": Method(regrow.GraNet, settings={"density": FINAL}, total=cubic, **DENSE),
    "top-kast": Method(regrow.TopKAST, settings={"density": FINAL}, hidden=True, **DENSE | {"total": constant}),
    "dns": Method(
        regrow.DNS, settings={"density": FINAL, "end": 0.75}, total=cubic, hidden=True, **DENSE | {"takes_seed": True}
    ),
    "granet-sparse": Method(regrow.GraNet, settings={"density": FINAL}, takes_seed=False),
}
OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
}
every_method = pytest.mark.parametrize("name", METHODS)
moving = pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.moves])
STORED = [(name, storage) for name, method in METHODS.items() for storage in method.storages]
stored = pytest.mark.parametrize(("name", "storage"), STORED)


def sparse(name, storage="masked", dtype=torch.float64):
    return regrow.sparsify(mlp(*SIZES, dtype=dtype), METHODS[name].density, storage=storage, seed=1)


def make(name, storage="masked", optimizer="momentum", **more):
    model = sparse(name, storage)
    trained = OPTIMIZERS[optimizer](model)
    return model, trained, METHODS[name].attach(model, trained, **more)


def step_of(model, optimizer, step):
    optimizer.zero_grad()
    loss_at(model, step, dtype=torch.float64).backward()
    optimizer.step()


def run(name, steps=range(STEPS), **how):
    model, optimizer, updater = make(name, **how)
    for step in steps:
        step_of(model, optimizer, step)
    return model, optimizer, updater


@every_method
def test_counts_are_exact_after_every_step(name):
    model, optimizer, updater = make(name)
    for step in range(1, STEPS + 3):
        step_of(model, optimizer, step)
        assert total_active(model) in METHODS[name].total(min(step, STEPS)), step
        assert all(weight.active >= 1 for weight in regrow.sparse_weights(model).values())
        if total_active(model) < NUMEL:
            assert_inactive_are_zero(model, None if METHODS[name].hidden else optimizer)
    assert bool(updater.history) == METHODS[name].moves
    for row in updater.history:
        assert type(row["pruned"]) is type(row["grown"]) is type(row["active"]) is int
    assert any(row["pruned"] for row in updater.history) == METHODS[name].moves


@every_method
def test_rows_add_up_to_the_counts(name):
    model, _, updater = run(name)
    for weight_name, weight in regrow.sparse_weights(model).items():
        rows = [row for row in updater.history if row["name"] == weight_name]
        start = regrow.sparse_weights(make(name)[0])[weight_name].active
        for row in rows:
            start += row["grown"] - row["pruned"]
            assert row["active"] == start
        assert weight.active == start or name.startswith("deep-rewiring")  # which goes on between rows


@pytest.mark.parametrize(("name", "storage"), [pair for pair in STORED if not METHODS[pair[0]].hidden])
def test_grown_weights_start_at_0_without_momentum(name, storage):
    optimizer = "adam" if storage == "masked" else "momentum"
    model, trained, _ = make(name, storage, optimizer)
    grown = 0
    for step in range(STEPS):
        before = indices(model)
        step_of(model, trained, step)
        for key, weight in regrow.sparse_weights(model).items():
            new = torch.tensor([position not in before[key] for position in weight.indices.tolist()], dtype=torch.bool)
            grown += int(new.sum())
            assert not weight.values[new].any()
            if METHODS[name].keeps_momentum:
                continue
            for what, tensor in trained.state[weight.parameter].items():
                entered = weight.take(tensor)[new] if tensor.dim() else tensor.new_zeros(0)
                if what == "exp_avg_sq":  # the mean of the layer: tests/optimizers/test_entering.py
                    assert bool((entered > 0).all())
                    assert entered.unique().numel() <= 1
                else:
                    assert not entered.any()
    assert (grown > 0) == (METHODS[name].moves and METHODS[name].grows)


@every_method
def test_same_seed_same_run_and_no_draw_from_the_global_generator(name):
    first = run(name)
    model = sparse(name)
    optimizer = OPTIMIZERS["momentum"](model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    updater = METHODS[name].attach(model, optimizer)
    for step in range(STEPS):
        step_of(model, optimizer, step)
    assert torch.equal(state, torch.get_rng_state())
    assert_same(first[0].state_dict(), model.state_dict())
    assert_same(first[2].state_dict(), updater.state_dict())
    if METHODS[name].random:
        assert indices(run(name, seed=4)[0]) != indices(model)


@stored
@pytest.mark.parametrize(("stop", "made_after_loading"), [(1, False), (4, False), (9, False), (9, True), (17, True)])
def test_a_resumed_run_is_the_run_that_went_on(name, storage, stop, made_after_loading):
    optimizer = "adamw" if storage == "masked" else "momentum"
    model, trained, updater = run(name, range(stop), storage=storage, optimizer=optimizer)
    saved = frozen({"model": model.state_dict(), "optimizer": trained.state_dict(), "updater": updater.state_dict()})
    if made_after_loading:
        other = sparse(name, storage)
        other.load_state_dict(saved["model"])
        other_trained = OPTIMIZERS[optimizer](other)
        other_updater = METHODS[name].attach(other, other_trained)
    else:
        other, other_trained, other_updater = make(name, storage, optimizer)
        other.load_state_dict(saved["model"])
    other_trained.load_state_dict(saved["optimizer"])
    other_updater.load_state_dict(saved["updater"])
    for step in range(stop, STEPS):
        step_of(model, trained, step)
        step_of(other, other_trained, step)
    assert_same(model.state_dict(), other.state_dict())
    assert_same(trained.state_dict()["state"], other_trained.state_dict()["state"])
    assert_same(updater.state_dict(), other_updater.state_dict())


@every_method
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_works_or_is_refused_with_the_reason(name, optimizer):
    if METHODS[name].needs_momentum and optimizer == "sgd" and _reads_momentum(METHODS[name]):
        with pytest.raises(ValueError, match=r"momentum=0.*momentum=0\.9"):
            make(name, optimizer=optimizer)
        return
    model, _, updater = run(name, optimizer=optimizer)
    assert total_active(model) in METHODS[name].total(STEPS)
    assert any(row["pruned"] for row in updater.history) == METHODS[name].moves


def _reads_momentum(method):
    return method.settings.get("redistribution", "momentum") in ("momentum", "none") or method.keeps_momentum


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if len(method.storages) == 2])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_both_storages_give_the_same_topology_and_weights(name, optimizer):
    more = {"window": "all"} if METHODS[name].make is regrow.SparseMomentum else {}
    (left, *_), (right, *_) = (run(name, storage=kind, optimizer=optimizer, **more) for kind in METHODS[name].storages)
    assert indices(left) == indices(right)
    ours, theirs = regrow.sparse_weights(left), regrow.sparse_weights(right)
    assert {weight.storage for weight in theirs.values()} == {"compressed"}
    for key, weight in ours.items():
        torch.testing.assert_close(weight.values, theirs[key].values, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].moves and "rewiring" not in name])
def test_by_hand_equals_by_itself(name):
    by_itself, _, updater = run(name)
    model, optimizer, by_hand = make(name, update_every=None)
    for step in range(STEPS):
        if step % EVERY == 0:
            by_hand.expect_update(EVERY)
        step_of(model, optimizer, step)
        if (step + 1) % EVERY == 0 and step + 1 < STEPS:
            optimizer.zero_grad()  # as a training loop may
            by_hand.update()
    assert indices(model) == indices(by_itself)
    assert by_hand.history == updater.history


UPDATING = ("rigl", "mest", "sparse-momentum", "dsr", "dns")


@pytest.mark.parametrize(("name", "storage"), [pair for pair in STORED if pair[0] in UPDATING])
def test_a_checkpoint_between_a_step_and_its_update_by_hand(name, storage):
    runs = []
    for stopped in (False, True):
        model, optimizer, updater = make(name, storage, update_every=None)
        updater.expect_update(2)
        for step in range(2):
            step_of(model, optimizer, step)
        if stopped:
            parts = [frozen(part.state_dict()) for part in (model, optimizer, updater)]
            model, optimizer, updater = make(name, storage, update_every=None)
            for part, state in zip((model, optimizer, updater), parts, strict=True):
                part.load_state_dict(state)
        assert sum(row["pruned"] for row in updater.update()) > 0 or name == "mest"  # which first grows
        runs.append((indices(model), updater.state_dict()))
    assert_same(*runs)


# ---------------------------------------------------------------- refusals


@moving
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"total_steps": 0, "update_every": None}, "total_steps=0"),
        ({"update_every": 0}, "update_every=0"),
        ({"update_every": STEPS + 1}, f"update_every={STEPS + 1}"),
    ],
)
def test_bad_steps_are_refused_and_change_nothing(name, settings, message):
    model = sparse(name)
    optimizer = OPTIMIZERS["momentum"](model)
    before = picture(model, optimizer)
    with pytest.raises(ValueError, match=message):
        METHODS[name].attach(model, optimizer, **settings)
    assert_same(before, picture(model, optimizer))


@every_method
def test_models_and_optimizers_that_do_not_fit_are_refused(name):
    dense = mlp(*SIZES, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"no sparse weights.*sparsify"):
        METHODS[name].attach(dense, OPTIMIZERS["momentum"](dense))
    model = sparse(name)
    with pytest.raises(ValueError, match=r"does not hold 0\.weight"):
        METHODS[name].attach(model, OPTIMIZERS["momentum"](model[2]))
    with pytest.raises(TypeError, match="got dict"):
        METHODS[name].attach(model, {})
    if METHODS[name].moves:
        optimizer = OPTIMIZERS["momentum"](model)
        updater = METHODS[name].attach(model, optimizer)
        with pytest.raises(ValueError, match=r"is already attached to this optimizer.*remove"):
            METHODS[name].attach(model, optimizer)
        updater.remove()
        METHODS[name].attach(model, optimizer)


@moving
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused_and_moves_nothing(name, bad):
    every = 1 if name.startswith("deep-rewiring") else EVERY
    model, optimizer, _updater = make(name)
    for step in range(every - 1):
        step_of(model, optimizer, step)
    weight = regrow.sparse_weights(model)["2.weight"]
    with torch.no_grad():
        weight.write(torch.full_like(weight.values, bad))
    before = indices(model)
    with pytest.raises(FloatingPointError, match=rf"2\.weight.*not finite at the topology update of step {every}"):
        step_of(model, optimizer, every)
    assert indices(model) == before


@moving
def test_the_state_of_another_model_is_refused_and_changes_nothing(name):
    _, _, updater = run(name, range(3))
    state = frozen(updater.state_dict())
    other = regrow.sparsify(nn.Sequential(nn.Linear(8, 5, dtype=torch.float64)), METHODS[name].density, seed=0)
    optimizer = OPTIMIZERS["momentum"](other)
    other_updater = METHODS[name].attach(other, optimizer)
    before = picture(other, optimizer, other_updater)
    with pytest.raises(ValueError, match=r"another model.*0\.weight"):
        other_updater.load_state_dict(state)
    del state["history"]
    with pytest.raises(ValueError, match="history"):
        updater.load_state_dict(state)
    assert_same(before, picture(other, optimizer, other_updater))


def _with(kind, **settings):
    return lambda model, optimizer: kind(model, optimizer, total_steps=20, update_every=2, **settings)


REFUSED = [
    (_with(regrow.TopKAST, density=1.0), r"density=1\.0"),
    (_with(regrow.TopKAST, density=0.5, backward_density=0.25), r"backward_density=0\.25.*density=0\.5"),
    (_with(regrow.TopKAST, density=0.5, penalty=-1.0), r"penalty=-1\.0"),
    (_with(regrow.DNS, density=0.5, margin=0.9), r"margin=0\.9"),
    (_with(regrow.DNS, density=0.5, decay=-1.0), r"decay=-1\.0"),
    (_with(regrow.SET, prune_rate=1.0), r"prune_rate=1\.0"),
    (_with(regrow.SET, schedule="step"), "schedule='step'"),
    (_with(regrow.RigL, prune_rate=-0.1), r"prune_rate=-0\.1"),
    (_with(regrow.RigL, stop_fraction=0.0), r"stop_fraction=0\.0"),
    (_with(regrow.RigL, window_batch=0), "window_batch=0"),
    (_with(regrow.CHT, score="ch4"), "score='ch4'.*ch3-l3p, ch3-l3n, ch2-l3n"),
    (_with(regrow.CHTs, removal="snip"), "removal='snip'"),
    (_with(regrow.CHTs, first_temperature=2.0, last_temperature=1.0), r"first_temperature=2\.0"),
    (_with(regrow.CHTss, density=0.1, steepness=0.0), r"steepness=0\.0"),
    (_with(regrow.GSE, candidates=0.0), r"candidates=0\.0"),
    (_with(regrow.GSE, sampling="sketch"), "sampling='sketch'"),
    (_with(regrow.DSR, threshold=0.0), r"threshold=0\.0"),
    (_with(regrow.DSR, tolerance=1.0), r"tolerance=1\.0"),
    (_with(regrow.MEST, gradient_weight=math.nan), "gradient_weight=nan"),
    (_with(regrow.DeepRewiring, l1=-1.0), r"l1=-1\.0"),
    (_with(regrow.DeepRewiring, scope="row"), "scope='row'"),
    (
        _with(regrow.SparseMomentum, growth="sign"),
        "growth='sign'.*momentum, global-momentum, gradient, sampled-gradient, random",
    ),
    (_with(regrow.SparseMomentum, pruning="SET"), "pruning='SET'.*magnitude, global-magnitude"),
    (_with(regrow.SparseMomentum, growth="global-momentum", redistribution="none"), "redistribution='none'"),
    (_with(regrow.SparseMomentum, growth="global-momentum", per_neuron=True), "per_neuron"),
    (_with(regrow.GSE, scope="row"), "scope='row'"),
    (_with(regrow.Forgetting, density=0.1, penalty=-1.0), r"penalty=-1\.0"),
    (_with(regrow.Forgetting, density=0.1, threshold=-1.0), r"threshold=-1\.0"),
    (_with(regrow.Forgetting, density=0.1, selective=0.9), r"selective=0\.9.*end=0\.75"),
    (_with(regrow.Karnin, density=0.1, end=0.0), r"end=0\.0"),
    (_with(regrow.Karnin, density=0.1, scope="row"), "scope='row'"),
    (_with(regrow.Powerpropagation, density=0.1, alpha=0.5), r"alpha=0\.5"),
    (_with(regrow.ContinuousSparsification, density=0.1, penalty=-1.0), r"penalty=-1\.0"),
    (_with(regrow.ContinuousSparsification, density=0.1, temperature=0.5), r"temperature=0\.5"),
    (_with(regrow.STR, density=0.1, initial=1.0), r"initial=1\.0"),
    (_with(regrow.STR, density=0.1, decay=-1.0), r"decay=-1\.0"),
    (_with(regrow.L0, density=0.1, penalty=-1.0), r"penalty=-1\.0"),
    (_with(regrow.L0, density=0.1, drop_rate=1.0), r"drop_rate=1\.0"),
    (_with(regrow.SparseVD, density=0.1, penalty=-1.0), r"penalty=-1\.0"),
    (_with(regrow.SparseVD, density=0.1, initial=math.inf), "initial=inf"),
    (_with(regrow.EdgePopup, density=1.0), r"density=1\.0"),
    (_with(regrow.GMP, density=1.0), r"density=1\.0"),
    (_with(regrow.GMP, density=0.001), r"density=0\.001 gives 0 active weights to 2 layers"),
    (_with(regrow.GMP, density=0.1, begin=0.8), r"begin=16\.0.*end=15"),
    (_with(regrow.GMP, density=0.1, end=0.95), "update_every=2 leaves no update.*total_steps=20"),
    (_with(regrow.GMP, density=0.1, scope="row"), "scope='row'"),
    (_with(regrow.Han, density=0.1, rounds=0), "rounds=0"),
    (_with(regrow.Han, density=0.1, begin=0.0), r"begin=0\.0"),
    (_with(regrow.ACDC, density=0.1, phase=0.5), r"phase=0\.5"),
    (_with(regrow.GraNet, density=0.9), r"density of 0\.25, below the final density=0\.9"),
    (lambda m, o: regrow.MEST(m, o, total_steps=20, update_every=7), "update_every=7 leaves no update.*soft_bound"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[message for _, message in REFUSED])
def test_values_out_of_range_are_refused_and_change_nothing(case):
    attach, message = case
    model = sparse("set")
    optimizer = OPTIMIZERS["momentum"](model)
    before = picture(model, optimizer)
    with pytest.raises(ValueError, match=message):
        attach(model, optimizer)
    assert_same(before, picture(model, optimizer))
