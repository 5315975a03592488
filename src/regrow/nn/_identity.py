"""Which active set the plans and the values of a compressed layer belong to, when other code writes to its tensors.

Averages, soft updates and federated means work on parameters and buffers one by one. Between models of one topology
that is right. Between others it adds up values of different positions, and where lengths are equal, torch raises
nothing. Two traces of it can be seen in a forward pass: indices that were written to in place, and values that were
written to in a copy that nobody trains, while another copy of the layer has come to another active set.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from ._contract import CompressedLayer
from ._state import AVERAGE, digest_of

__all__ = ["Identity"]


class _Family:
    """A layer and its copies, for as long as they live."""

    def __init__(self) -> None:
        self.members: weakref.WeakSet[CompressedLayer] = weakref.WeakSet()
        self.several = False


class Identity:
    """The identity of one layer's active set.

    Attributes:
        indices: the buffer that plans were made from.
        version: version of that buffer when plans were made.
        digest: digest of those indices.
        trained: whether a backward pass has reached the weight since there are copies, so that optimizers write to it.
        family: the layer and its copies.
    """

    def __init__(self, layer: CompressedLayer, family: _Family | None = None):
        self.trained = False
        self._handle: Any = None
        self.family = family or _Family()
        self.family.members.add(layer)
        self.family.several |= family is not None
        self.settle(layer)

    def settle(self, layer: CompressedLayer) -> None:
        """Returns what the layer holds now belongs together."""
        buffers: dict[str, Any] = layer._buffers
        self.indices = buffers["indices"]
        self.version = self.indices._version
        self.digest = digest_of(self.indices)
        self.accept_values()

    def accept_values(self) -> None:
        self._values: int | None = None

    def of_copy(self, layer: CompressedLayer, copy: CompressedLayer) -> Identity:
        """The identity of a copy of the layer."""
        twin = Identity(copy, self.family)
        self._values = twin._values = _bits(layer._parameters.get("weight"))
        for identity, one in ((self, layer), (twin, copy)):
            identity._watch(one)
        return twin

    def _watch(self, layer: CompressedLayer) -> None:
        """Notes the next gradient of the weight, whether it goes to .grad or to other code."""
        weight = layer._parameters.get("weight")
        if self.trained or self._handle is not None or weight is None or not weight.requires_grad:
            return

        def note(gradient: Tensor) -> None:
            self.trained = True

        self._handle = weight.register_hook(note)

    def look(self, layer: CompressedLayer) -> None:
        """Raises RuntimeError where values and positions do not belong together any more.

        Called in forward, where the buffer is another than it was, or there are copies.
        """
        indices = layer._buffers["indices"]
        assert indices is not None
        if indices is not self.indices or indices._version != self.version:
            self._look_at(indices, layer)
        self.family.several = len(self.family.members) > 1
        if self.trained and self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self.family.several and not self.trained:
            self._watch(layer)
            self._look_at_values(layer)

    def _look_at(self, indices: Tensor, layer: CompressedLayer) -> None:
        digest = digest_of(indices)
        if digest != self.digest and not self._was_copied(digest, layer):
            raise RuntimeError(
                f"{layer._label()}: its indices were overwritten in place by those of another active set, as "
                "torch's AveragedModel or an EMA does when it copies buffers. Its values then mix positions. To copy "
                f"another model, use load_state_dict; {AVERAGE}"
            )
        if digest != self.digest:
            layer._forget()
        self.indices, self.version, self.digest = indices, indices._version, digest
        layer.digest = torch.tensor(digest)

    def _was_copied(self, digest: tuple[int, int], layer: CompressedLayer) -> bool:
        """Returns whether a copy of the layer has just these positions and just these values."""
        weight = layer._parameters["weight"]
        others = (other for other in self.family.members if other is not layer and other._identity.digest == digest)
        return any(torch.equal(weight, other._parameters["weight"]) for other in others)  # type: ignore[arg-type]

    def _look_at_values(self, layer: CompressedLayer) -> None:
        values = _bits(layer._parameters["weight"])
        if self._values is not None and self._values != values and (other := self._moved_on(layer)):
            raise RuntimeError(
                f"{layer._label()}: its values were written to, but nobody trains it, and a layer that it is a copy "
                f"of, or that was copied from it, now has another active set ({other.active} weights, as here). If "
                "its values were mixed with that layer's, entry by entry, they mix positions: "
                f"{AVERAGE}. If the values are right, call layer.accept_values()"
            )
        self._values = values

    def _moved_on(self, layer: CompressedLayer) -> CompressedLayer | None:
        """A copy of as many weights, so that arithmetic raises nothing, and with another active set."""
        others = (other for other in self.family.members if other._identity.digest != self.digest)
        return next((other for other in others if other.active == layer.active), None)


def _bits(weight: Tensor | None) -> int:
    """A number that changes with nearly every change of the values; 0 where there are none.

    On the meta device there are none, nor where other code has taken the parameter away, which forward says.
    """
    if weight is None or weight.is_meta:
        return 0
    integers = weight.detach().view(torch.int32 if weight.dtype == torch.float32 else torch.int64)
    return int(integers.sum())
