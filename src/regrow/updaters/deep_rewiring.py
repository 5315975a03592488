"""Deep rewiring: a step of its own after each optimizer step, and connections that die where their sign would flip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regrow.distributed import assert_ranks_agree, same_generator
from regrow.optimizers.hooks import was_skipped
from regrow.redistribution import check_scope
from regrow.topology.random import draw_distinct, draw_missing, seeded_generator
from regrow.weights import SparseWeight

from .base import MovingUpdater, check_steps, row_of
from .plan import check_finite

__all__ = ["DeepRewiring"]


class DeepRewiring(MovingUpdater):
    """Deep rewiring, DEEP R (Bellec et al. 2018, arXiv:1711.05136, section 2 and algorithm 1).

    A weight is a sign times a strength, w = s * theta. After each optimizer step theta loses lr * l1 and gains
    lr * noise * N(0, 1). A connection whose strength becomes negative is pruned, and as many are grown at random
    positions of the whole network, with strength 0, a random sign, momentum 0 and their layer's mean second moment.
    The topology therefore changes at every step.
    The noise has the paper's form sqrt(2 lr T) at the temperature T = lr * noise^2 / 2, as in the authors' code.

    Args:
        model: a model from `sparsify`.
        optimizer: any whose parameter groups have "lr". LBFGS restarts after each step that rewires weights.
        total_steps: optimizer steps T of the whole training; after it nothing changes.
        update_every: number of optimizer steps in a row of `history`, 1 to T; None: `update()` makes rows.
        l1: alpha, the L1 penalty, at least 0.
        noise: standard deviation of the noise per learning rate, at least 0.
        scope: "global" (the paper) or "local": each layer keeps its number of weights.
        seed: seed of noise, signs and positions; None draws one from torch's global generator.

    Attributes:
        step: optimizer steps seen.
        history: like that of `ComposedUpdater`; prune_rate is the fraction of weights that were pruned.

    Raises:
        ValueError: the model is not sparse, the optimizer lacks a sparse weight, or a value is out of range; nothing is
            changed.

    Example:
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> updater = regrow.DeepRewiring(model, optimizer, total_steps=54_000, update_every=540, seed=0)
    """

    method = "deep-rewiring"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total_steps: int,
        update_every: int | None,
        l1: float = 1e-5,
        noise: float = 1e-5,
        scope: str = "global",
        seed: int | None = None,
    ):
        check_steps(total_steps, update_every)
        for name, value in (("l1", l1), ("noise", noise)):
            if not value >= 0:
                raise ValueError(f"{name}={value} must be at least 0")
        scope = check_scope(scope)
        super().__init__(model, optimizer)
        self.total_steps, self.update_every = total_steps, update_every
        self._l1, self._noise, self._scope = l1, noise, scope
        self._generator = same_generator(seeded_generator(seed), self._device)
        self._signs = {name: weight.values.signbit() for name, weight in self._weights.items()}
        """True where a connection is negative, in the order of `indices`."""
        self._signs_loaded = False
        self._rewired = dict.fromkeys(self._weights, (0, 0))
        self._steps = 0
        self._hang()

    def expect_update(self, after: int) -> None:
        """Changes nothing: connections die and come to life after every step.

        Args:
            after: optimizer steps until then.
        """

    def update(self) -> list[dict[str, Any]]:
        """Adds to `history` what has been rewired since the last rows, one a layer, and returns them."""
        if self._steps == 0 or self.step > self.total_steps:
            return []
        total = sum(weight.active for weight in self._weights.values())
        rate = sum(died for died, _ in self._rewired.values()) / (self._steps * total)
        rows = [
            row_of(self.step, rate, name, *self._rewired[name], weight.active, 0.0)
            for name, weight in self._weights.items()
        ]
        self._rewired, self._steps = dict.fromkeys(self._weights, (0, 0)), 0
        self._note_update(rows)
        assert_ranks_agree(self._weights, self.step, self._generator)
        return rows

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if was_skipped(optimizer):
            return
        for weight in self._weights.values():
            weight.enforce()
        self.step += 1
        if self.step > self.total_steps:
            self._alignment.note()
            return
        self._rewire()
        self._signs_loaded = False
        self._alignment.settle()
        self._steps += 1
        if self.update_every and self.step % self.update_every == 0:
            self.update()

    def _follow(self, name: str) -> None:
        """Positions that were loaded without the updater's signs have those of their values."""
        if not self._signs_loaded:
            self._signs[name] = self._weights[name].values.signbit()

    def _rewire(self) -> None:
        strengths = {name: self._walk(name) for name in self._weights}
        check_finite([f"{n}: weights" for n, s in strengths.items() if not torch.isfinite(s).all()], self.step)
        dead = {name: _dead(strength) for name, strength in strengths.items()}
        born = self._births({name: int(d.sum()) for name, d in dead.items()})
        for name, weight in self._weights.items():
            strength = strengths[name].clamp_min(0)
            weight.write(torch.where(self._signs[name], -strength, strength))
            if int(dead[name].sum()) or born[name]:
                self._replace(weight, dead[name], born[name])
            died, came = self._rewired[name]
            self._rewired[name] = died + int(dead[name].sum()), came + born[name]

    def _walk(self, name: str) -> Tensor:
        """Strengths after drift and noise, shape (active,)."""
        values, lr = self._weights[name].values, float(self._group(name)["lr"])
        strength = torch.where(self._signs[name], -values, values)
        noise = torch.randn(strength.shape, generator=self._generator, dtype=strength.dtype)
        return strength - lr * self._l1 + (lr * self._noise) * noise.to(strength.device)

    def _births(self, died: Mapping[str, int]) -> dict[str, int]:
        """Returns how many connections grow in each layer: each inactive position of the network is as likely."""
        if self._scope == "local":
            return dict(died)
        free = [weight.numel - weight.active + died[name] for name, weight in self._weights.items()]
        chosen = draw_distinct(sum(died.values()), sum(free), self._generator)
        layers = torch.bucketize(chosen, torch.tensor(free).cumsum(0), right=True)
        return dict(zip(died, torch.bincount(layers, minlength=len(free)).tolist(), strict=True))

    def _replace(self, weight: SparseWeight, dead: Tensor, born: int) -> None:
        before = weight.indices
        pruned, kept = before[dead], before[~dead]
        grown = draw_missing(born, weight.numel, kept, self._generator)
        signs = torch.randint(2, (born,), generator=self._generator).bool().to(before.device)
        self._move(weight, pruned, grown)
        ascending = torch.cat([kept, grown]).argsort()
        self._signs[weight.name] = torch.cat([self._signs[weight.name][~dead], signs])[ascending]

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs besides the state of model and optimizer: only tensors and plain values."""
        return self._origin() | {
            "step": self.step,
            "steps": self._steps,
            "history": [dict(row) for row in self.history],
            "generator": self._generator.get_state(),
            "signs": dict(self._signs),
            "rewired": {name: list(counts) for name, counts in self._rewired.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict()`; load the model and the optimizer first.

        Args:
            state: result of `state_dict`.

        Raises:
            ValueError: the state is that of another model or method; nothing is changed.
        """
        self._check_origin(state, {"step", "steps", "history", "generator", "signs", "rewired"})
        self._generator.set_state(state["generator"].cpu())
        self.step, self._steps = state["step"], state["steps"]
        self.history = [dict(row) for row in state["history"]]
        devices = {name: weight.parameter.device for name, weight in self._weights.items()}
        self._signs = {name: signs.to(devices[name]).clone() for name, signs in state["signs"].items()}
        self._rewired = {name: (counts[0], counts[1]) for name, counts in state["rewired"].items()}
        self._signs_loaded = True


def _dead(strength: Tensor) -> Tensor:
    """Which connections die: those of negative strength, but a layer keeps its strongest one."""
    dead = strength < 0
    if dead.all():
        dead[strength.argmax()] = False
    return dead
