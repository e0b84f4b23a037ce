"""Which ranks share a node, and what a sum in two levels costs each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ptycho_bluesky.errors import ReconstructionError

__all__ = ["Topology", "pieces"]


def pieces(count: int, parts: int) -> list[slice]:
    """Cut `count` numbers into `parts` pieces of nearly equal length; the longer ones come first."""
    each, more = divmod(count, parts)
    ends = [each * part + min(part, more) for part in range(parts + 1)]
    return [slice(first, last) for first, last in pairwise(ends)]


@dataclass(frozen=True)
class Topology:
    """Ranks grouped by node: inside a node memory or NVLink joins them, between nodes a network."""

    nodes: tuple[tuple[int, ...], ...]
    """Ranks of each node in rising order, nodes by their first rank, which is the node's leader."""

    @classmethod
    def of(cls, places: Sequence[str] | Sequence[int], ranks: int) -> Topology:
        """Group ranks by a name or number each: host names, or nodes given by hand.

        Raises
        ------
        ReconstructionError
            Not one place for each rank.
        """
        if len(places) != ranks:
            raise ReconstructionError(
                f"{len(places)} nodes were given for {ranks} ranks; give the node of each rank, for example "
                "[0, 0, 1, 1], or none to group them by host name"
            )
        groups: dict[str, list[int]] = {}
        for rank, place in enumerate(places):
            groups.setdefault(str(place), []).append(rank)
        return cls(tuple(tuple(group) for group in groups.values()))

    @property
    def size(self) -> int:
        """Number of ranks."""
        return sum(len(node) for node in self.nodes)

    @property
    def leaders(self) -> list[int]:
        """First rank of each node."""
        return [node[0] for node in self.nodes]

    def node_of(self, rank: int) -> tuple[int, ...]:
        """Return all ranks of a rank's node."""
        return next(node for node in self.nodes if rank in node)

    def reduce_bytes(self, rank: int, count: int, item_bytes: int) -> dict[str, int]:
        """Return the bytes that a rank sends, at each level, when `count` numbers are summed over all ranks.

        Members send to their leader and get the sum back. A leader has a piece of the numbers for its own: it gets that
        piece from all other leaders, and sends them the sum. Between nodes that is as little as a ring sends.
        """
        node, leaders = self.node_of(rank), self.leaders
        if rank != node[0]:
            return {"node": count * item_bytes, "global": 0}
        mine = pieces(count, len(leaders))[leaders.index(rank)]
        own = mine.stop - mine.start
        across = (count - own) + own * (len(leaders) - 1)
        return {"node": (len(node) - 1) * count * item_bytes, "global": across * item_bytes}
