"""Numbers on their way between ranks: fewer bits, without an error that stays."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ptycho_bluesky.errors import ReconstructionError

__all__ = ["Precision", "Wire", "as_real", "like"]

Precision = Literal["float32", "bfloat16", "float16"]
"""Of float32 and complex64 on the wire; ``float32`` sends everything as it is."""


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a tensor in one row, complex ones as pairs."""
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.contiguous().flatten()


def like(numbers: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return numbers of :func:`as_real` in the shape and type of a tensor."""
    if tensor.is_complex():
        return torch.view_as_complex(numbers.reshape(*tensor.shape, 2))
    return numbers.reshape(tensor.shape)


class Wire:
    """Messages of a chosen precision, with error feedback.

    Both ends of a stream keep what the receiver knows so far, in float32. A message is the difference to that, rounded;
    what rounding took away is part of the next difference. So nothing is lost for good, and the error follows the
    change between two messages, not the value: it fades as a reconstruction settles. Richtarik, Sokolov and Fatkhullin,
    NeurIPS 34, 4384 (2021), algorithm 1 (EF21).

    Parameters
    ----------
    precision:
        ``float32``, ``bfloat16`` or ``float16``. float64 and integers always travel as they are: they are few.
    """

    def __init__(self, precision: Precision = "float32") -> None:
        if precision not in get_args(Precision):
            raise ReconstructionError(f"wire precision {precision!r}; allowed are {', '.join(get_args(Precision))}")
        self.precision = precision
        self._type: torch.dtype = getattr(torch, precision)
        self._known: dict[str, torch.Tensor] = {}

    def type_of(self, values: torch.Tensor) -> torch.dtype:
        """Return the type in which values travel."""
        return self._type if values.dtype == torch.float32 else values.dtype

    def message(self, stream: str, values: torch.Tensor) -> torch.Tensor:
        """Return what to send of (K,) values; the sender passes it to :meth:`received` as well.

        Numbers that are not finite go over as such. What is too large for float16 goes over in several messages.
        """
        if self.type_of(values) == values.dtype:
            return values
        known = self._known.get(stream)
        change = values if known is None or known.shape != values.shape else values - known
        most = torch.finfo(self._type).max
        return torch.where(torch.isfinite(change), change.clamp(-most, most), change).to(self._type)

    def received(self, stream: str, message: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the (K,) values of type `dtype` that the receiver of a message knows."""
        if message.dtype == dtype:
            return message
        known = self._known.get(stream)
        change = message.to(dtype)
        values = change if known is None or known.shape != change.shape else known + change
        # A NaN is passed on once; kept, it would spoil every later difference.
        self._known[stream] = torch.where(torch.isfinite(values), values, torch.zeros_like(values))
        return values
