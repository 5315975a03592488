"""Methods with shadow weights, against a plain network that multiplies by masks and lets gradients through."""

import pytest
import torch
from torch import nn

import regrow
from helpers import assert_same, fed, feed, masked, mlp, picture

STEPS, EVERY = 24, 3
SETTINGS = dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2)


def batches():
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        x = torch.randn(16, 8, generator=generator, dtype=torch.float64)
        yield x, torch.randint(4, (16,), generator=generator)


def model_and_optimizer():
    model = regrow.sparsify(mlp(8, 12, 4, dtype=torch.float64, bias=False), 1.0, storage="masked")
    return model, torch.optim.SGD(model.parameters(), **SETTINGS)


class Through(torch.autograd.Function):
    """w * forward; the gradient of all of w * backward."""

    @staticmethod
    def forward(ctx, w, forward, backward):
        ctx.save_for_backward(backward)
        return w * forward

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None, None


class Plain:
    """Two layers with all weights, of which `shown` count and `trained` learn; torch's SGD."""

    def __init__(self, model):
        self.weights = [w.detach().clone().requires_grad_() for w in model.parameters()]
        self.optimizer = torch.optim.SGD(self.weights, **SETTINGS)
        self.clipped = 0
        self.shown = [torch.ones_like(w) for w in self.weights]
        self.trained = [torch.ones_like(w) for w in self.weights]

    def step(self, x, y, penalty=None, clip=None):
        first, second = (Through.apply(*three) for three in zip(self.weights, self.shown, self.trained, strict=True))
        loss = nn.functional.cross_entropy(torch.tanh(x @ first.t()) @ second.t(), y)
        self.optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            norms = [(w.grad * s).norm() for w, s in zip(self.weights, self.shown, strict=True)]
            factor = float(clip / (torch.stack(norms).norm() + 1e-6))
            self.clipped += factor < 1
            for w in self.weights:
                w.grad *= min(factor, 1.0)
        before = [w.detach().clone() for w in self.weights]
        for w, s, t in zip(self.weights, self.shown, self.trained, strict=True):
            if penalty:
                w.grad += t * w.detach() * torch.where(s > 0, penalty[0], penalty[1])
        self.optimizer.step()
        with torch.no_grad():
            for w, old, t in zip(self.weights, before, self.trained, strict=True):
                w.copy_(torch.where(t > 0, w, old))


def top(values, count):
    mask = torch.zeros(values.numel(), dtype=torch.float64)
    mask[values.abs().flatten().topk(count).indices] = 1
    return mask.view_as(values)


def compare(model, plain):
    for weight, w, shown in zip(regrow.sparse_weights(model).values(), plain.weights, plain.shown, strict=True):
        assert torch.equal(weight.mask, shown > 0)
        torch.testing.assert_close(weight.parameter.detach(), w.detach() * shown, rtol=1e-10, atol=1e-12)


def train_step(model, optimizer, x, y, clip=None):
    optimizer.zero_grad()
    for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
        (nn.functional.cross_entropy(model(part), labels) / 2).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


@pytest.mark.parametrize("clip", [None, 0.15])
def test_dns_equals_masks_that_let_gradients_through(clip):
    model, optimizer = model_and_optimizer()
    plain = Plain(model)
    updater = regrow.DNS(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25, decay=0.0, margin=1.1)
    spliced = 0
    for step, (x, y) in enumerate(batches(), 1):
        train_step(model, optimizer, x, y, clip)
        plain.step(x, y, clip=clip)
        if step % EVERY == 0 and step < STEPS:
            density = 0.25 + 0.75 * max(1 - step / 12, 0) ** 3
            total = round(density * 144)
            kept = [weight.active for weight in regrow.sparse_weights(model).values()]
            assert sum(kept) == total
            before = plain.shown
            scores = [w.detach().abs() * (1 + 0.1 * s) for w, s in zip(plain.weights, before, strict=True)]
            plain.shown = [top(s, k) for s, k in zip(scores, kept, strict=True)]
            spliced += sum(int((now > old).sum()) for now, old in zip(plain.shown, before, strict=True))
        compare(model, plain)
    assert sum(row["grown"] for row in updater.history) == spliced > 0
    assert clip is None or plain.clipped > STEPS // 2


@pytest.mark.parametrize("clip", [None, 0.05])
def test_top_kast_equals_masks_of_two_sizes(clip):
    model, optimizer = model_and_optimizer()
    plain = Plain(model)
    updater = regrow.TopKAST(
        model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25, backward_density=0.5, penalty=0.02
    )
    plain.shown = [top(w.detach(), w.numel() // 4) for w in plain.weights]
    plain.trained = [top(w.detach(), w.numel() // 2) for w in plain.weights]
    for step, (x, y) in enumerate(batches(), 1):
        train_step(model, optimizer, x, y, clip)
        plain.step(x, y, penalty=(0.02, 0.08), clip=clip)
        if step % EVERY == 0 and step < STEPS:
            before = plain.trained
            plain.shown = [top(w.detach(), w.numel() // 4) for w in plain.weights]
            plain.trained = [top(w.detach(), w.numel() // 2) for w in plain.weights]
            for w, old, new in zip(plain.weights, before, plain.trained, strict=True):
                plain.optimizer.state[w]["momentum_buffer"] *= old * new
        compare(model, plain)
    assert sum(row["grown"] for row in updater.history) > 0
    assert clip is None or plain.clipped > STEPS // 2


def test_a_hidden_weight_comes_back_as_it_was():
    model = fed({"a": range(4)}, a=[4.0, 3.0, 2.0, 1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    updater = regrow.DNS(model, optimizer, total_steps=8, update_every=1, density=0.5, end=0.125, margin=1.0, decay=0.0)
    feed(model, optimizer, a=[[0.0, 0.0, 0.0, 0.0]])
    assert model.a.tolist() == [[4.0, 3.0, 0.0, 0.0]]
    feed(model, optimizer, a=[[0.0, 2.5, 0.0, -1.0]])  # 3 - 2.5 = 0.5; the hidden 1 becomes 2, and 2 stays
    assert model.a.tolist() == [[4.0, 0.0, 2.0, 0.0]]
    feed(model, optimizer, a=[[0.0, 0.0, 0.0, -3.0]])
    assert model.a.tolist() == [[4.0, 0.0, 0.0, 5.0]]
    assert [row["grown"] for row in updater.history] == [0, 1, 1]
    assert not model.a.grad[0, 1:3].any()


def test_dns_leaves_updates_out_ever_more_often():
    model = fed({"a": range(4)}, a=[4.0, 3.0, 2.0, 1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = regrow.DNS(model, optimizer, total_steps=400, update_every=1, density=0.5, end=0.01, decay=0.1, seed=0)
    for _ in range(400):
        feed(model, optimizer, a=[[0.0] * 4])
    steps = [row["step"] for row in updater.history]
    expected = 4 + sum(1 / (1 + 0.1 * step) for step in range(5, 400))
    assert abs(len(steps) - expected) < 4 * expected**0.5
    assert steps[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", [regrow.DNS, regrow.TopKAST])
def test_compressed_storage_is_refused(kind):
    model = regrow.sparsify(mlp(8, 12, 4), 0.25, storage="compressed", seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match=r"0\.weight is stored compressed; use sparsify\(model, 1\.0, storage='masked'"
    ):
        kind(model, optimizer, total_steps=20, update_every=2, density=0.1)


def test_a_step_that_is_skipped_leaves_the_model_as_it_is():
    model = fed({"a": range(4)}, a=[4.0, 3.0, 2.0, 1.0], dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    updater = regrow.DNS(model, optimizer, total_steps=8, update_every=1, density=0.5, end=0.125, decay=0.0)
    feed(model, optimizer, a=[[0.0] * 4])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(a=[[float("inf")] * 4])).backward()
    scaler.step(optimizer)
    scaler.update()
    assert (updater.step, model.a.tolist()) == (1, [[4.0, 3.0, 0.0, 0.0]])
    optimizer.zero_grad()
    scaler.scale(model(a=[[0.0, 0.0, -4.0, 0.0]])).backward()
    scaler.step(optimizer)
    assert (updater.step, model.a.tolist()) == (2, [[4.0, 0.0, 6.0, 0.0]])


@pytest.mark.parametrize("fused", [False, True])
def test_the_penalty_is_that_without_a_scaler(fused):
    """A fused optimizer divides gradients by the scale itself, and the penalty must not shrink with it."""
    ends = []
    for scale in (None, 2.0**14):
        model = fed({"a": range(4)}, a=[4.0, -3.0, 2.0, 1.0], dtype=torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.125, fused=fused)
        regrow.TopKAST(model, optimizer, total_steps=20, update_every=5, density=0.5, penalty=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for _ in range(8):
            optimizer.zero_grad()
            scaler.scale(model(a=[[0.5, 0.25, -0.5, 0.0]])).backward()
            scaler.step(optimizer)
            scaler.update()
        ends.append(model.a.tolist())
    torch.testing.assert_close(*map(torch.tensor, ends), rtol=1e-6, atol=1e-6)
    assert abs(ends[0][0][0]) < 3.0


@pytest.mark.parametrize("kind", [regrow.DNS, regrow.TopKAST])
def test_gradients_of_hidden_weights_are_gone_after_the_step(kind):
    model, optimizer = model_and_optimizer()
    kind(model, optimizer, total_steps=STEPS, update_every=EVERY, density=0.25)
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for weight in regrow.sparse_weights(model).values():
        assert weight.density < 1
        assert weight.parameter.grad[weight.mask].any()
        assert not weight.parameter.grad[~weight.mask].any()


@pytest.mark.parametrize("kind", [regrow.DNS, regrow.TopKAST])
def test_lbfgs_is_refused(kind):
    """It measures the model several times in a step, with shadow weights in it."""
    model = masked(mlp(8, 12, 4), 1.0)
    optimizer = torch.optim.LBFGS(model.parameters())
    before = picture(model, optimizer)
    with pytest.raises(ValueError, match="LBFGS evaluates the model several times in a step; use SGD or Adam"):
        kind(model, optimizer, total_steps=10, update_every=2, density=0.5)
    assert_same(before, picture(model, optimizer))
