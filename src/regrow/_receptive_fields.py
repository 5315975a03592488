"""Receptive fields as active sets to start from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from regrow.topology.initial import counts_of
from regrow.topology.random import seeded_generator
from regrow.topology.receptive_field import receptive_field
from regrow.weights.prunable import Patterns, select

__all__ = ["receptive_fields"]


def receptive_fields(
    model: nn.Module,
    density: float,
    *,
    randomness: float = 0.25,
    distribution: str | Mapping[str, float] = "uniform",
    seed: int | None = None,
    dense: Patterns = (),
) -> dict[str, Tensor]:
    """Active sets in which each unit sees a neighbourhood of the units below it, for `sparsify(init=...)`.

    The bipartite receptive field model (BRF, Zhang et al. 2025, arXiv:2501.19107, section 3.1); a convolution's inputs
    are its channels and kernel positions. See `topology.receptive_field`.

    Args:
        model: a dense model, which does not change.
        density: as in `sparsify`.
        randomness: r, 0 (the nearest units) to 1 (all alike).
        distribution: as in `sparsify`, but not "global".
        seed: None draws from torch's global generator.
        dense: as in `sparsify`.

    Returns:
        Ascending positions of each prunable parameter, int64, for `sparsify(density=None, init=positions)`.

    Raises:
        ValueError: a value is out of range, or the model is already sparse.

    Example:
        >>> dense = make_model()
        >>> positions = regrow.receptive_fields(dense, 0.05, seed=0)
        >>> regrow.summary(regrow.sparsify(dense, density=None, init=positions)).active
        1191
    """
    places = select(model, dense)
    counts = counts_of({name: place.parameter for name, place in places.items()}, density, distribution)
    generator = seeded_generator(seed)
    fields = {}
    for name, place in places.items():
        outputs, numel = place.parameter.shape[0], place.parameter.numel()
        fields[name] = receptive_field(outputs, numel // outputs, counts[name], randomness, generator)
    return fields
