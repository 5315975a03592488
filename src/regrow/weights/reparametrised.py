"""Weights that modules compute from others: gains of rows, and the directions that weight normalisation divides.

A gain multiplies a whole row, so that a gain of 0 silences the row; gains stay dense, as those of normalisations do.
Weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868) divides each row of a direction by its norm, which is
0/0 in a row without active weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["check_not_normalised", "is_gain"]

_WITH_KERNELS = (nn.modules.conv._ConvNd, nn.Bilinear)
"""Torch's own modules with weights of three dimensions and more, most of which may be 1."""
_WITH_MATRICES = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Torch's own modules with several matrices, one of which may have a single column."""
_OF_HOOK = "_g"
"""Ends the names that weight_norm, as a hook, gives to gains."""


def is_gain(module: nn.Module, attribute: str) -> bool:
    """Returns whether a parameter scales or shifts whole rows: size 1 in some dimensions of another one of its module,
    or a vector with dimensions of size 1 around it.

    Example:
        >>> normalised = torch.nn.utils.weight_norm(torch.nn.Linear(3, 4))
        >>> is_gain(normalised, "weight_g"), is_gain(normalised, "weight_v")  # (4, 1) and (4, 3)
        (True, False)
    """
    parameter = module._parameters[attribute]
    if parameter is None or isinstance(module, _WITH_KERNELS):
        return isinstance(module, _WITH_KERNELS) and attribute.endswith(_OF_HOOK)
    if parameter.dim() > 2 and parameter.numel() == max(parameter.shape):
        return True
    if isinstance(module, _WITH_MATRICES) and not attribute.endswith(_OF_HOOK):
        return False
    return any(_scales(parameter, other) for other in module._parameters.values() if other is not None)


def _scales(gain: Tensor, other: Tensor) -> bool:
    if gain.dim() != other.dim() or gain.numel() >= other.numel():
        return False
    return all(size in (1, whole) for size, whole in zip(gain.shape, other.shape, strict=True))


def check_not_normalised(name: str, module: nn.Module, attribute: str) -> None:
    """Raises where weight normalisation divides the rows of a parameter by their norms.

    Raises:
        ValueError: it does; with the remedies.
    """
    if isinstance(module, ParametrizationList):
        normalised = attribute == "original1" and any(_by_rows(one, parametrizations._WeightNorm) for one in module)
        layer, _, weight = name.rpartition(".original1")[0].rpartition("parametrizations.")
        remedy = f"torch.nn.utils.parametrize.remove_parametrizations(module, {weight!r})"
    else:
        hooks: list[Any] = [hook for hook in module._forward_pre_hooks.values() if _by_rows(hook, WeightNorm)]
        normalised = any(attribute == f"{hook.name}_v" for hook in hooks)
        layer, weight = name.removesuffix(attribute), attribute.removesuffix("_v")
        remedy = f"torch.nn.utils.remove_weight_norm(module, {weight!r})"
    if normalised:
        raise ValueError(
            f"{name}: weight_norm divides each row by its norm, which is 0/0 in a row without active weights; remove "
            f"it first with {remedy}, or keep this one dense with dense=[{layer.rstrip('.') or name!r}]"
        )


def _by_rows(part: Any, kind: type) -> bool:
    """Returns whether a hook or parametrization is weight normalisation, other than by the norm of the whole weight."""
    return isinstance(part, kind) and getattr(part, "dim", None) != -1
