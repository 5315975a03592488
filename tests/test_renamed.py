"""What version 0.1 called otherwise works until version 0.3, and says its new name."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

import regrow
from regrow import criteria, distributed, redistribution, schedules, topology
from regrow._renamed import MODULES


@pytest.mark.parametrize("old", MODULES)
def test_old_modules_have_what_the_new_ones_have(old, monkeypatch):
    if old.startswith(("recipes", "report")):
        pytest.importorskip("lightning_fabric", reason="the recipes need: pip install 'regrow[recipes]'")
    monkeypatch.delitem(sys.modules, f"regrow.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match=f"regrow.{old} is regrow.{MODULES[old]} now"):
        module = importlib.import_module(f"regrow.{old}")
    new = importlib.import_module(f"regrow.{MODULES[old]}")
    assert new.__spec__.name == new.__name__ == f"regrow.{MODULES[old]}"
    assert all(getattr(module, name) is getattr(new, name) for name in getattr(new, "__all__", []))


def test_modules_below_old_packages_do_not_take_the_place_of_new_ones():
    program = """
import warnings
warnings.simplefilter("ignore")
from regrow.recipes.training import train
from regrow.recipes.models.gpt import GPT
import regrow.lab.models.gpt, regrow.lab.training.loop
assert train is regrow.lab.train is regrow.lab.training.loop.train
assert GPT is regrow.lab.models.gpt.GPT
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (criteria, "missing_gradient", "inactive_gradient"),
        (criteria, "missing_momentum", "inactive_momentum"),
        (redistribution, "share_by_importance", "by_importance"),
        (redistribution, "share_none", "keep_own"),
        (redistribution, "SHARE_RULES", "RULES"),
        (topology, "share", "redistribute"),
        (distributed, "leave_to_us", "exclude_from_ddp"),
    ],
)
def test_old_names_in_modules(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is {new} now"):
        assert getattr(module, old) is getattr(module, new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def start():
    model = regrow.sparsify(nn.Linear(20, 10), 0.2, storage="masked", seed=0)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_updater_makes_a_composed_one():
    parts = {"prune": criteria.magnitude, "grow": criteria.random, "schedule": schedules.cosine_decay(0.3, end=9)}
    with pytest.warns(DeprecationWarning, match=r"regrow.Updater\(...\) is regrow.ComposedUpdater\(...\) now"):
        updater = regrow.Updater(*start(), total_steps=9, update_every=3, seed=0, **parts)
    assert type(updater) is regrow.ComposedUpdater
    with pytest.raises(TypeError, match="abstract"):
        regrow.Updater(*start())


def test_subclasses_are_told_which_base_they_want():
    class Mine(regrow.Updater):
        def __init__(self, model, optimizer):
            super().__init__(model, optimizer, prune=criteria.magnitude)

        update = expect_update = state_dict = load_state_dict = None

    with pytest.raises(TypeError, match=r"takes no prune; .* subclass of regrow.ComposedUpdater"):
        Mine(*start())


def test_old_arguments_and_values():
    with pytest.warns(DeprecationWarning, match="share= is redistribution= now"):
        regrow.SparseMomentum(*start(), total_steps=9, update_every=3, share="none")
    with pytest.warns(DeprecationWarning, match="scope='layer' is scope='local' now"):
        regrow.DeepRewiring(*start(), total_steps=9, update_every=3, scope="layer")
    with pytest.warns(DeprecationWarning, match="distribution='network' is distribution='global' now"):
        regrow.sparsify(nn.Linear(20, 10), 0.2, init="magnitude", distribution="network")


def test_every_updater_is_an_updater():
    for name in regrow.__all__:
        kind = getattr(regrow, name)
        if isinstance(kind, type) and kind.__module__.startswith("regrow.updaters"):
            assert issubclass(kind, regrow.Updater), name
