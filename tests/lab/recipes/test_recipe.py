"""Recipes, overrides, settings and the learning-rate schedule."""

from __future__ import annotations

import pytest

from regrow.lab import RECIPES, UsageError, get_recipe, make_settings, override
from regrow.lab.models import MODELS
from regrow.lab.recipes.recipe import learning_rate, setting_names
from regrow.lab.recipes.settings import differing


def test_published_mnist_protocol():
    for name in ("lenet300-mnist", "lenet5-mnist"):
        recipe = get_recipe(name)
        assert (recipe.epochs, recipe.batch_size, recipe.lr) == (100, 100, 0.1)
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 5e-4)
        assert (recipe.validation_fraction, recipe.options, recipe.dense) == (0.1, (), ())


def test_published_cifar10_protocol():
    names = {name.removesuffix("-cifar10") for name in RECIPES if name.endswith("-cifar10")}
    assert names == {
        name for name in MODELS if not name.startswith(("digits", "lenet", "gpt", "wide", "table", "survival"))
    }
    for name in names:
        recipe = get_recipe(f"{name}-cifar10")
        assert recipe.model == name
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (250, 128, 0.1, 5e-4)
        assert (recipe.momentum, recipe.nesterov, recipe.option("prune_rate", 0.5)) == (0.9, True, 0.5)
        drops = [learning_rate(recipe, step, 88_000) for step in (29_999, 30_000, 60_000)]
        assert drops == pytest.approx([0.1, 0.01, 0.001])


def test_published_imagenet_protocol():
    recipe = get_recipe("resnet50-imagenet")
    assert (recipe.epochs, recipe.batch_size, recipe.classes, recipe.label_smoothing) == (100, 256, 1000, 0.1)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay, recipe.option("prune_rate")) == (
        0.9,
        True,
        1e-4,
        0.2,
    )
    an_epoch = 4955
    at = {0: 0.1 / 5 / an_epoch, 2.5: 0.05, 5: 0.1, 29.9: 0.1, 30: 0.01, 60: 0.001, 90: 0.0001}
    rates = [learning_rate(recipe, round(epoch * an_epoch), 100 * an_epoch) for epoch in at]
    assert rates == pytest.approx(list(at.values()), rel=1e-3)


@pytest.mark.parametrize(("total", "first_drop"), [(54_000, 25_000), (540, 250), (1_080, 500)])
def test_learning_rate_drops_at_the_same_fraction_whatever_the_length(total: int, first_drop: int):
    recipe = get_recipe("lenet300-mnist")
    assert learning_rate(recipe, first_drop - 1, total) == 0.1
    assert learning_rate(recipe, first_drop, total) == pytest.approx(0.01)
    assert learning_rate(recipe, 2 * first_drop, total) == pytest.approx(0.001)


def test_the_learning_rate_rises_in_the_warmup():
    recipe = override(get_recipe("vgg16-d-cifar10"), ["epochs=20", "warmup_epochs=0.5"])
    rates = [learning_rate(recipe, step, 400) for step in (0, 4, 9, 10, 11, 200)]
    assert rates == pytest.approx([0.01, 0.05, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_registered_under_its_own_name(name: str):
    assert get_recipe(name).name == name


def test_overrides_are_typed():
    recipe = override(
        get_recipe("digits-mlp"),
        ["epochs=3", "lr=1e-2", "nesterov=false", "lr_drops=5,9", "max_density=none", "dense=fc1,fc3", "images=99"],
    )
    assert (recipe.images, override(recipe, ["images=none"]).images) == (99, None)
    assert [override(recipe, [f"window={value}"]).option("window") for value in ("all", "none", "5")] == [
        "all",
        None,
        5,
    ]
    assert (recipe.epochs, recipe.lr, recipe.nesterov) == (3, 0.01, False)
    assert (recipe.lr_drops, recipe.options, recipe.dense) == ((5, 9), (("max_density", None),), ("fc1", "fc3"))


@pytest.mark.parametrize("assignment", ["nope=1", "model=1", "lr", "name=x", "threads=2"])
def test_an_unknown_key_lists_the_valid_ones(assignment: str):
    with pytest.raises(UsageError) as error:
        override(get_recipe("digits-mlp"), [assignment])
    assert all(name in str(error.value) for name in setting_names())


@pytest.mark.parametrize(
    "assignment",
    [
        "lr=fast",
        "epochs=1.5",
        "nesterov=maybe",
        "epochs=0",
        "lr=-1",
        "window=few",
        "images=0",
        "warmup_epochs=41",
        "label_smoothing=1",
    ],
)
def test_a_bad_value_is_named(assignment: str):
    with pytest.raises(UsageError, match=assignment.partition("=")[0]):
        override(get_recipe("digits-mlp"), [assignment])


@pytest.mark.parametrize(
    "wrong",
    [
        {"density": 0.0},
        {"density": 1.5},
        {"method": "magic"},
        {"method": "dense", "density": 0.5},
        {"storage": "tape"},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict):
    with pytest.raises(UsageError):
        make_settings("digits-mlp", **wrong)


def test_folder_is_named_by_the_settings_that_are_not_default():
    plain = make_settings("digits-mlp", density=0.1).folder()
    assert plain.parts[:2] == ("runs", "digits-mlp")
    assert plain.name.startswith("sparse-momentum-0.1-s0-")
    assert make_settings("digits-mlp", density=0.1, overrides=["epochs=40"]).folder() == plain
    assert make_settings("digits-mlp", density=0.1, overrides=["epochs=41"]).folder() != plain
    assert make_settings("digits-mlp", density=0.1, storage="masked").folder() != plain


def test_a_setting_added_later_leaves_old_folders_valid():
    settings = make_settings("digits-mlp", density=0.1)
    stored = settings.as_dict()
    del stored["clip_norm"]
    assert differing(settings, stored) == []
    changed = make_settings("digits-mlp", density=0.1, overrides=["clip_norm=0.5", "max_density=0.5"])
    assert differing(changed, stored) == ["clip_norm: None there, 0.5 now", "max_density: default there, 0.5 now"]
