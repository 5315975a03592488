"""Hugging Face's Trainer and a small BERT: a callback makes the updater for the Trainer's optimizer and saves it.

pip install transformers accelerate
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

import regrow
from regrow.integrations.huggingface import SparseTraining

set_seed(0)
tokens = torch.randint(20, (512, 8))
data = [{"input_ids": row, "labels": row[0] % 2} for row in tokens]  # is the first token odd?

config = BertConfig(
    vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=2
)
model = BertForSequenceClassification(config)
model = regrow.sparsify(model, density=0.3, dense=["*embeddings*", "classifier"])
sparse = SparseTraining(regrow.SparseMomentum, update_every=10)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=5,
        per_device_train_batch_size=32,
        learning_rate=3e-3,
        save_strategy="no",  # where it is not, checkpoints hold the updater
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[sparse])
    loss = trainer.train().training_loss

with torch.no_grad():
    correct = (model.eval()(tokens).logits.argmax(1) == tokens[:, 0] % 2).float().mean()
assert sparse.updater.step == trainer.state.global_step == 80
assert sum(row["grown"] for row in sparse.updater.history) > 0
assert correct > 0.9, "by chance: 0.5"
print(f"mean loss {loss:.2f}, {correct:.0%} correct")
print(regrow.summary(model))
