"""Lightning's Trainer: checkpoints carry the updater."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regrow
from helpers import assert_same, mlp

pl = pytest.importorskip("pytorch_lightning")


class Classifier(pl.LightningModule):
    def __init__(self, seed):
        super().__init__()
        self.network = regrow.sparsify(mlp(8, 12, 4, seed=seed), 0.25, seed=seed)

    def training_step(self, batch, _):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.network(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def sparse_training(**settings):
    from regrow.integrations.lightning import SparseTraining

    return SparseTraining(regrow.SparseMomentum, update_every=3, window=2, **settings)


def fit(folder, seed, ckpt_path=None):
    """Four epochs of four steps; a checkpoint after each."""
    checkpoints = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    sparse, model = sparse_training(), Classifier(seed)
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[checkpoints, sparse],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(32, 8, generator=generator), torch.randint(4, (32,), generator=generator))
    trainer.fit(model, DataLoader(data, batch_size=8), ckpt_path=ckpt_path)
    return model, sparse.updater


def test_a_resumed_training_goes_on_to_the_same_bits(tmp_path):
    model, updater = fit(tmp_path / "first", seed=0)
    again, updater_again = fit(tmp_path / "second", seed=1, ckpt_path=tmp_path / "first" / "epoch=1.ckpt")
    assert_same(model.state_dict(), again.state_dict())
    assert_same(updater.state_dict(), updater_again.state_dict())
    assert {row["step"] for row in updater.history} == {3, 6, 9, 12, 15}
    assert sum(row["grown"] for row in updater.history) > 0


class MyAverage(getattr(pl.callbacks, "EMAWeightAveraging", pl.callbacks.StochasticWeightAveraging)):
    """A callback of somebody's own."""


AVERAGES = {
    "swa": lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05),
    "subclass": lambda: (
        MyAverage(use_buffers=False) if hasattr(pl.callbacks, "EMAWeightAveraging") else MyAverage(0.05)
    ),
}


def started(method, callback, storage):
    """A training that is about to start, and its model."""
    from regrow.integrations.lightning import SparseTraining

    model = Classifier(0)
    model.network = regrow.sparsify(mlp(8, 12, 4), 0.25, seed=0, storage=storage)
    sparse, optimizer = SparseTraining(method), model.configure_optimizers()
    trainer = SimpleNamespace(optimizers=[optimizer], estimated_stepping_batches=9, callbacks=[sparse, callback])
    return lambda: sparse.on_train_start(trainer, model), optimizer


@pytest.mark.parametrize("storage", ["masked", "compressed"])
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("method", [regrow.RigL, regrow.SparseMomentum, regrow.Static])
def test_averages_of_moving_weights_are_refused_before_training(method, average, storage):
    def make(model, optimizer, total_steps):
        more = {} if method is regrow.Static else {"total_steps": total_steps, "update_every": 3}
        return method(model, optimizer, **more)

    callback = AVERAGES[average]()
    start, optimizer = started(make, callback, storage)
    if method is regrow.Static:
        start()
        return
    with pytest.raises(ValueError, match=f"{type(callback).__name__} averages.*AveragedModel"):
        start()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("storage", ["masked", "compressed"])
def test_averages_of_positions_are_refused(storage):
    callbacks = pytest.importorskip("pytorch_lightning.callbacks.weight_averaging")
    start, _ = started(lambda *parts, **_: regrow.Static(*parts), callbacks.WeightAveraging(), storage)
    if storage == "masked":
        start()
        return
    with pytest.raises(ValueError, match="use_buffers=False"):
        start()


def test_several_optimizers_are_refused():
    trainer = SimpleNamespace(optimizers=[1, 2])
    with pytest.raises(ValueError, match="Classifier has 2; make the updaters in configure_optimizers"):
        sparse_training().on_train_start(trainer, Classifier(0))


def test_a_training_without_end_is_refused_unless_its_length_is_given():
    model = Classifier(0)
    trainer = SimpleNamespace(
        optimizers=[model.configure_optimizers()], estimated_stepping_batches=float("inf"), callbacks=[]
    )
    with pytest.raises(ValueError, match="total_steps"):
        sparse_training().on_train_start(trainer, model)
    sparse = sparse_training(total_steps=7)
    sparse.on_train_start(trainer, model)
    assert sparse.updater.total_steps == 7
