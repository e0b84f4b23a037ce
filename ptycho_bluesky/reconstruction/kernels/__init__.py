"""The kernel set on which every engine is written, three times: numba (CPU), torch (any device), CUDA.

Importing this folder imports neither numba nor torch nor cupy; :func:`kernels_for` does, for what it chooses.
"""

from ptycho_bluesky.reconstruction.kernels._choice import Backend, kernels_for
from ptycho_bluesky.reconstruction.kernels._protocol import DataType, Evaluator, Kernels, Steps, Swept

__all__ = ["Backend", "DataType", "Evaluator", "Kernels", "Steps", "Swept", "kernels_for"]
