"""What every network has to stand: it is made sparse, trained, saved, resumed and made dense again."""

import io

import pytest
import torch

import regrow
from helpers import assert_same, total_active
from models.zoo import CASES

DENSITY = 0.2


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


class Training:
    """A sparse network with its optimizer and updater; two topology updates in six steps."""

    def __init__(self, case, seed, density=DENSITY):
        torch.manual_seed(seed)
        self.case = case
        self.model = regrow.sparsify(case.make(), density, seed=seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.updater = regrow.SparseMomentum(self.model, self.optimizer, total_steps=8, update_every=2, window=2)

    @property
    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "updater": self.updater}

    def step(self, step):
        torch.manual_seed(step)  # for dropout
        self.optimizer.zero_grad()
        self.case.loss(self.model, self.case.batch(step)).backward()
        self.optimizer.step()

    def state(self):
        return {name: part.state_dict() for name, part in self.parts.items()}

    def resume(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def assert_sparse(model):
    """The exact number of active weights, and no other weight in any sparse layer."""
    weights = regrow.sparse_weights(model)
    assert total_active(model) == round(DENSITY * sum(weight.numel for weight in weights.values()))
    plain = dict(regrow.densify(model).named_parameters())
    for name, weight in weights.items():
        values = plain[name].detach().reshape(-1).clone()
        assert torch.equal(values[weight.indices], weight.values), name
        values[weight.indices] = 0
        assert not values.any(), name


def assert_tied(case, model):
    names = dict(model.named_parameters(remove_duplicate=False))
    assert len({id(names[name]) for name in case.tied}) <= 1


def saved(state):
    """A state after it has been in a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_trains_and_resumes_to_the_same_bits(case):
    training = Training(case, seed=0)
    for step in range(3):
        training.step(step)
    assert_sparse(training.model)
    state = saved(training.state())
    other = Training(case, seed=1)
    other.resume(state)
    for step in range(3, 6):
        training.step(step)
        other.step(step)
    assert_same(training.state(), other.state())
    assert_sparse(training.model)
    assert_tied(case, training.model)
    assert {row["step"] for row in training.updater.history} == {2, 4, 6}
    assert sum(row["grown"] for row in training.updater.history) > 0


def test_comes_out_dense_with_equal_outputs(case, tmp_path):
    training = Training(case, seed=0)
    training.step(0)
    training.step(1)
    plain, again = case.make(), regrow.load(saved_model(training.model, tmp_path), case.make())
    plain.load_state_dict(regrow.densify(training.model).state_dict())
    assert_tied(case, regrow.densify(training.model))
    assert_same(training.model.state_dict(), again.state_dict())
    batch = case.batch(9)
    losses = [case.loss(model.eval(), batch).detach() for model in (training.model, plain, again)]
    torch.testing.assert_close(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def saved_model(model, folder):
    regrow.save(folder / "model.pt", model)
    return folder / "model.pt"


def test_both_storages_compute_the_same_gradients(case):
    gradients = []
    for storage in ("auto", "masked"):
        torch.manual_seed(0)
        model = regrow.sparsify(case.make().double(), DENSITY, storage=storage, seed=0)
        torch.manual_seed(0)
        case.loss(model, case.batch(0, torch.float64)).backward()
        weights = regrow.sparse_weights(model)
        if storage == "auto" and not any(weight.storage == "compressed" for weight in weights.values()):
            pytest.skip("none of its weights can be compressed")
        gradients.append({name: weight.take(weight.parameter.grad) for name, weight in weights.items()})
    for name, gradient in gradients[0].items():
        expected = gradients[1][name]
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()), msg=name)
