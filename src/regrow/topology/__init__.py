"""Active sets as pure functions: which positions, how many in each layer, and which ones at first.

Everything here is exact: counts are integers that add up, and ties are broken by position.
"""

from regrow._renamed import names

from .counts import prune_counts, redistribute, redistribute_within_budget, round_to_total
from .selection import counts_of_largest, largest, largest_by_row, smallest

__all__ = [
    "counts_of_largest",
    "largest",
    "largest_by_row",
    "prune_counts",
    "redistribute",
    "redistribute_within_budget",
    "round_to_total",
    "smallest",
]


__getattr__ = names(__name__, {"share": "redistribute", "share_within_budget": "redistribute_within_budget"})
