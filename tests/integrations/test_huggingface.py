"""Hugging Face's Trainer: checkpoints carry the updater."""

from types import SimpleNamespace

import pytest
import torch

import regrow
from helpers import assert_same, mlp
from models.zoo import LENGTH, TOKENS, bert

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def sparse_training():
    from regrow.integrations.huggingface import SparseTraining

    return SparseTraining(regrow.SparseMomentum, update_every=2, window=2)


def train(folder, seed, resume=None):
    """Eight steps, with a checkpoint after five."""
    torch.manual_seed(seed)
    sparse, model = sparse_training(), regrow.sparsify(bert(), 0.25, seed=seed)
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=8,
        per_device_train_batch_size=4,
        save_steps=5,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    tokens = torch.randint(TOKENS, (16, LENGTH), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[sparse])
    trainer.train(resume_from_checkpoint=resume)
    return model, sparse.updater


def test_a_resumed_training_goes_on_to_the_same_bits(tmp_path):
    model, updater = train(tmp_path, seed=0)
    again, updater_again = train(tmp_path, seed=1, resume=str(tmp_path / "checkpoint-5"))
    assert_same(model.state_dict(), again.state_dict())
    assert_same(updater.state_dict(), updater_again.state_dict())
    assert {row["step"] for row in updater.history} == {2, 4, 6}
    assert sum(row["grown"] for row in updater.history) > 0
    regrow.densify(model).save_pretrained(tmp_path / "dense")
    plain = transformers.BertForMaskedLM.from_pretrained(tmp_path / "dense")
    assert_same(plain.state_dict(), regrow.densify(model).state_dict())
    names = dict(again.named_parameters(remove_duplicate=False))
    assert names["bert.embeddings.word_embeddings.weight"] is names["cls.predictions.decoder.weight"]


def begin(folder, step, seed=0):
    """What the Trainer calls at the start of a training, and a checkpoint of its first step."""
    model = regrow.sparsify(mlp(8, 12, 4, seed=0), 0.25, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    args = SimpleNamespace(output_dir=str(folder), save_only_model=False)
    sparse, state = sparse_training(), SimpleNamespace(max_steps=8, global_step=step)
    sparse.on_train_begin(args, state, None, model=model, optimizer=optimizer)
    state.global_step = 1
    sparse.on_save(args, state, None, model=model)


def test_a_checkpoint_that_is_elsewhere_or_of_another_training_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"copy its folder to .*checkpoint-1"):
        begin(tmp_path, step=1)
    begin(tmp_path, step=0)
    begin(tmp_path, step=1)
    with pytest.raises(ValueError, match="belongs to another training"):
        begin(tmp_path, step=1, seed=1)
