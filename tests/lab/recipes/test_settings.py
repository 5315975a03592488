"""Wrong values are found before anything is trained, and settings that a method does not have are refused."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from regrow.lab import Settings, get_recipe, make_settings
from regrow.lab.errors import UsageError
from regrow.lab.recipes.methods import METHODS, check_taken, concerns_dense, make_sparse, make_updater
from regrow.lab.recipes.optimizer import make_optimizer
from regrow.lab.recipes.options import updaters
from regrow.lab.recipes.recipe import option_names, override, setting_names, stored_name
from regrow.lab.recipes.settings import settings_of
from regrow.lab.report.runs import differences
from regrow.lab.stored_settings import OPTIONS_OF_0_1, in_effect

OTHER = {
    "prune_rate": "0.25",
    "schedule": "linear",
    "growth": "random",
    "inherit_momentum": "false",
    "per_neuron": "true",
    "redistribution": "none",
    "max_density": "0.75",
    "flops_budget": "0.5",
    "window": "3",
    "window_batch": "2",
    "distribution": "erk",
    "receptive_field": "0.2",
    "pruning": "global-magnitude",
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
    recipe = settings.recipe
    changed = replace(recipe, dense=("0",)) if key == "dense" else override(recipe, [f"{key}={OTHER[key]}"])
    return replace(settings, recipe=changed)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"dense", "lottery"}))
def test_a_setting_that_a_method_does_not_have_changes_nothing(method: str):
    settings = make_settings("digits-mlp", method=method, density=0.3)
    plain = traces(settings)
    for key in OTHER.keys() - set(METHODS[method].takes):
        state, history = traces(changed(settings, key))
        assert all(torch.equal(value, plain[0][name]) for name, value in state.items()), key
        assert history == plain[1], key


def test_sparse_momentum_has_all_settings_and_dense_none():
    assert METHODS["sparse-momentum"].takes == OTHER.keys() | {"update_every", "factored", "winograd"}
    assert not METHODS["dense"].takes


def test_settings_that_concern_a_dense_run_are_known():
    sparse = set().union(*(method.takes for method in METHODS.values()))
    assert {key for key in (*setting_names(), *option_names()) if not concerns_dense(key)} == sparse


OTHER_DEFAULTS = [
    (method, key, OPTIONS_OF_0_1[stored_name(key)])
    for method in METHODS
    for key, default in METHODS[method].options.items()
    if OPTIONS_OF_0_1.get(stored_name(key)) not in (None, default)
]


@pytest.mark.parametrize(("method", "key", "common"), OTHER_DEFAULTS)
def test_an_option_that_is_given_the_default_of_other_methods_is_given(method: str, key: str, common: object):
    """0.1 dropped what equalled the default of sparse momentum, and trained with the method's own."""
    plain = make_settings("digits-mlp", method=method, density=0.3)
    settings = make_settings("digits-mlp", method=method, density=0.3, overrides=[f"{key}={common}"])
    assert settings.recipe.option(key) == common
    assert settings.folder() != plain.folder()
    assert settings_of(settings.stored()) == settings
    if kind := updaters().get(method):
        made = make_sparse(torch.nn.Linear(20, 20), settings)
        with patch.object(kind, "__init__", autospec=True, return_value=None) as init:
            make_updater(made, make_optimizer(made, settings.recipe), settings, 10)
        assert init.call_args.kwargs[key] == common


def test_a_setting_that_one_of_several_methods_has_is_taken():
    check_taken(["static", "set"], ["lr", "prune_rate"])
    with pytest.raises(UsageError, match="the methods static, set have no setting share"):
        check_taken(["static", "set"], ["lr", "share"])


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


RUNS_OF_0_1 = json.loads((Path(__file__).parent / "folders_of_0_1.json").read_text())
"""What version 0.1 called the folders of runs, and the settings that it wrote into them."""


@pytest.mark.parametrize("name", RUNS_OF_0_1)
def test_runs_of_0_1_have_the_settings_and_the_names_that_they_had(name: str):
    run = RUNS_OF_0_1[name]
    settings = settings_of(run["settings"])
    assert settings.folder().name == run["folder"]
    method, _, overrides = name.partition(" ")
    if method != "wide":
        density = None if method == "dense" else 0.1
        given = [*ast.literal_eval(overrides), "rescale=false"]  # which was the recipe's
        assert make_settings("digits-mlp", method=method, density=density, overrides=given) == settings


def test_what_is_stored_tells_what_was_given_and_what_was_in_effect():
    plain = make_settings("digits-mlp", method="set", density=0.1)
    given = make_settings("digits-mlp", method="set", density=0.1, overrides=["prune_rate=0.3"])
    assert plain.stored()["prune_rate"] == given.stored()["prune_rate"] == 0.3
    assert settings_of(plain.stored()) == plain
    assert settings_of(given.stored()) == given
    other = make_settings("digits-mlp", method="set", density=0.1, overrides=["prune_rate=0.5"])
    assert differences([in_effect(one.stored()) for one in (plain, other)]) == [
        {"prune_rate": 0.3},
        {"prune_rate": 0.5},
    ]


def test_former_fields_of_recipes_are_options_until_0_3():
    recipe = get_recipe("digits-mlp")
    with pytest.warns(DeprecationWarning, match=r"write options=given\(share, window\)"):
        changed = replace(recipe, share="none", window=3)
    assert changed.options == (("redistribution", "none"), ("window", 3))
