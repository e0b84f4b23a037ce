"""Distributed reconstruction: one answer on any number of ranks.

Each rank has some frames and a tile of the object. ``reconstruct_ranks`` starts ranks on this machine and sees to them;
on several, any launcher that sets torchrun's environment starts
``python -m ptycho_bluesky.reconstruction.distributed SPEC.json`` once a rank.
"""

from ptycho_bluesky.reconstruction.distributed._launch import Progress, reconstruct_ranks
from ptycho_bluesky.reconstruction.distributed._options import RankOptions, RankSpec
from ptycho_bluesky.reconstruction.distributed._partition import Halo, Partition, light_box

__all__ = ["Halo", "Partition", "Progress", "RankOptions", "RankSpec", "light_box", "reconstruct_ranks"]
