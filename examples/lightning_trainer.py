"""Lightning: the model is made sparse in the constructor, and a callback makes the updater and saves it.

pip install pytorch-lightning
"""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regrow
from regrow.integrations.lightning import SparseTraining


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        network = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4))
        self.network = regrow.sparsify(network, density=0.2)

    def training_step(self, batch, _):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.network(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


pl.seed_everything(0)
inputs = torch.randn(512, 20)
data = TensorDataset(inputs, (inputs[:, :4] + inputs[:, -4:]).argmax(1))
sparse = SparseTraining(regrow.SparseMomentum, update_every=10)
trainer = pl.Trainer(
    max_epochs=10,
    accelerator="cpu",
    gradient_clip_val=1.0,
    callbacks=[sparse],
    logger=False,
    enable_checkpointing=False,  # where it is on, checkpoints hold the updater
    enable_progress_bar=False,
)
model = Classifier()
trainer.fit(model, DataLoader(data, batch_size=64, shuffle=True))

loss = model.training_step(data.tensors, 0)
assert sparse.updater.step == trainer.global_step == 80
assert sum(row["grown"] for row in sparse.updater.history) > 0
assert regrow.summary(model).active == round(0.2 * 19456)
assert loss < 0.6, "four classes by chance: 1.39"
print(f"loss {loss.item():.2f}")
print(regrow.summary(model))
