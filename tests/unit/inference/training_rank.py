"""One process of a training of several, for the test of these: ``python training_rank.py PAIRS.npz OUT.npz``."""

import sys

import numpy as np
import torch

from ptycho_bluesky.inference import ProbeViTSizes, TrainingOptions, TrainingPairs
from ptycho_bluesky.inference._training import train_network

torch.set_num_threads(1)
with np.load(sys.argv[1]) as saved:
    pairs = TrainingPairs(**saved)
sizes = ProbeViTSizes(size=16, width=16, depth=1, heads=2, features=2, hidden=8, iterations=1)
options = TrainingOptions(steps=6, batch=8, simulated_share=0, validate_every=3)
network, state = train_network(options, sizes, pairs=pairs)
weights = {name: value.numpy() for name, value in network.state_dict().items()}
np.savez(sys.argv[2], curves=state.curves["validation_loss"], **weights)
