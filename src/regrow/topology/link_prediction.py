"""Scores of links that a bipartite network does not have, from those that it has: Cannistraci-Hebb theory.

Outputs u and inputs v of a layer are the two sides. A missing link (u, v) scores by the paths of length 3 between them,
and by how few links the nodes on these paths have to elsewhere.

Paper: Zhang et al. 2025, arXiv:2501.19107, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .random import gumbel
from .selection import largest

__all__ = ["LINK_SCORES", "LinkScores", "ch2_l3n", "ch3_l3n", "ch3_l3p"]


def ch3_l3p(links: Tensor) -> Tensor:
    """The path-based score: the sum over paths u - z1 - z2 - v of 1 / sqrt((1 + de_z1) (1 + de_z2)).

    de_z are the links of z to other nodes than u, v and those on such paths.

    Args:
        links: bool, shape (outputs, inputs).

    Returns:
        Scores, float64, shape (outputs, inputs); only those of missing links have a meaning.
    """
    if links.size(0) > links.size(1):
        return ch3_l3p(links.t()).t()
    own = links.double()
    among_outputs, among_inputs = own @ own.t(), own.t() @ own
    # a node z on a path has its link to u (or v), those that di counts, and de others: 1 + de = degree - di
    of_inputs = _inverse(own.sum(0).unsqueeze(1) - among_inputs).sqrt_()
    of_outputs = _inverse(own.sum(1) - among_outputs).sqrt_()
    scores = torch.zeros_like(own)
    for u in range(own.size(0)):
        near = links[u].nonzero().squeeze(1)
        across = own[:, near] @ of_inputs[near]
        across[u] = 0  # a path does not return to u
        scores[u] = ((own * across) * of_outputs[u].unsqueeze(1)).sum(0)
    return scores


def ch3_l3n(links: Tensor) -> Tensor:
    """The node-based approximation: the sum of 1 / (1 + de_z) over nodes z that share a neighbour with u (or v) and are
    linked to v (or u).

    Args:
        links: as `ch3_l3p`.
    """
    return _by_nodes(links, lambda shared: (shared > 0).double())


def ch2_l3n(links: Tensor) -> Tensor:
    """The node-based approximation that counts shared neighbours: the sum of di_z / (1 + de_z), see `ch3_l3n`.

    Args:
        links: as `ch3_l3p`.
    """
    return _by_nodes(links, lambda shared: shared)


def _by_nodes(links: Tensor, weight: Callable[[Tensor], Tensor]) -> Tensor:
    own = links.double()

    def side(own: Tensor) -> Tensor:
        shared = own @ own.t()
        # z has its link to v, the shared neighbours, and de others
        return (weight(shared) * _inverse((own.sum(1) - shared).clamp(min=1))) @ own

    return side(own) + side(own.t()).t()


def _inverse(numbers: Tensor) -> Tensor:
    """1 / x where x is above 0, and 0 elsewhere."""
    return torch.where(numbers > 0, 1 / numbers.clamp(min=1), 0.0)


LINK_SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "ch3-l3p": ch3_l3p,
    "ch3-l3n": ch3_l3n,
    "ch2-l3n": ch2_l3n,
}


class LinkScores:
    """Scores of the links that are missing once the network is pruned (`lazy.LazyScores`).

    Args:
        shape: (outputs, inputs).
        score: a key of `LINK_SCORES`.
        generator: on the CPU.
        soft: draw links in proportion to their scores, not the largest. Those that score 0 come last, at random.
    """

    def __init__(self, shape: tuple[int, int], score: str, generator: torch.Generator, soft: bool):
        self.shape, self.score, self.generator, self.soft = shape, score, generator, soft

    def largest(self, k: int, taken: Tensor) -> Tensor:
        links = torch.zeros(self.shape, dtype=torch.bool, device=taken.device)
        links.view(-1)[taken] = True
        scores = LINK_SCORES[self.score](links).reshape(-1)
        noise = gumbel(scores.numel(), self.generator).to(scores.device)
        if self.soft:
            keys = scores.clamp(min=1e-200).log() + noise
        else:
            keys = torch.where(scores > 0, scores, torch.sigmoid(noise) - 1)  # those of score 0 in a random order
        keys[taken] = -torch.inf
        return largest(keys, k)

    def is_finite(self) -> bool:
        return True
