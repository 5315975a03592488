"""Wrong values are found before anything is trained, and settings that a method does not have are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from regrow.lab import Settings, make_settings
from regrow.lab.errors import UsageError
from regrow.lab.recipes.methods import METHODS, make_sparse, make_updater, refuse_foreign
from regrow.lab.recipes.optimizer import make_optimizer
from regrow.lab.recipes.recipe import SPARSE_ONLY, override

OTHER = {
    "prune_rate": "0.25",
    "prune_schedule": "linear",
    "growth": "random",
    "inherit_momentum": "false",
    "per_neuron": "true",
    "share": "none",
    "max_density": "0.75",
    "flops_budget": "0.5",
    "window": "3",
    "window_batch": "2",
    "distribution": "erk",
    "dense": "",
    "rescale": "true",
}
"""Values other than the defaults, of all settings but `update_every`, which updaters here do not see."""


def traces(settings: Settings) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """The weights of three small layers after six steps, and what their updater did."""
    torch.manual_seed(0)
    model = make_sparse(torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3))), settings)
    optimizer = make_optimizer(model, settings.recipe)
    updater = make_updater(model, optimizer, settings, 10)
    for step in range(6):
        optimizer.zero_grad()
        (model(torch.linspace(-1, 1, 64).view(8, 8)) - step).square().mean().backward()
        optimizer.step()
        if updater is not None and step % 2:
            updater.update()
    return model.state_dict(), updater.history if updater is not None else []


def changed(settings: Settings, key: str) -> Settings:
    """With another value, whether the method has that setting or not."""
    values = (
        {key: ("0",)} if key == "dense" else {key: getattr(override(settings.recipe, [f"{key}={OTHER[key]}"]), key)}
    )
    return replace(settings, recipe=replace(settings.recipe, **values))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"dense", "lottery"}))
def test_a_setting_that_a_method_does_not_have_changes_nothing(method: str):
    settings = make_settings("digits-mlp", method=method, density=0.3)
    plain = traces(settings)
    for key in OTHER.keys() - set(METHODS[method].takes):
        state, history = traces(changed(settings, key))
        assert all(torch.equal(value, plain[0][name]) for name, value in state.items()), key
        assert history == plain[1], key


def test_sparse_momentum_has_all_settings_and_dense_none():
    assert set(METHODS["sparse-momentum"].takes) == set(SPARSE_ONLY) | {"factored"}
    assert set(SPARSE_ONLY) == OTHER.keys() | {"update_every"}
    assert not METHODS["dense"].takes


def test_a_setting_that_one_of_several_methods_has_is_taken():
    refuse_foreign(["static", "set"], ["lr", "prune_rate"])
    with pytest.raises(UsageError, match="the methods static, set have no share"):
        refuse_foreign(["static", "set"], ["lr", "share"])


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_every_method_stand_a_rehearsal(method: str):
    state = torch.get_rng_state()
    make_settings("digits-mlp", method=method, density=None)
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_values_are_refused_where_settings_are_made():
    with pytest.raises(UsageError, match=r"max_density=5\.0 must be in \(0, 1\]"):
        make_settings("digits-mlp", method="dsr", overrides=["max_density=5"])


def test_a_distribution_by_scores_needs_none_to_load_a_network():
    settings = make_settings("digits-mlp", method="snip", overrides=["distribution=global"])
    assert make_sparse(torch.nn.Linear(20, 20), settings) is not None
