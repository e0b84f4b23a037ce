"""The published PtychoNN family: convolutional networks from one diffraction pattern to one patch, probe unseen.

Cherukara et al., Applied Physics Letters 117, 044103 (2020); Babu et al., Nature Communications 14, 7059 (2023).
Module names and places follow the published code in all its forms (two heads or the phase alone, three or four levels,
with batch normalisation, without, or with places kept for it), so that state dicts load key for key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from ptycho_bluesky.errors import FormatError

__all__ = ["PtychoNN", "PtychoNNPhase", "published_network"]

PHASE_NAMES = ("decoder2", "decoder_phase")
AMPLITUDE_NAMES = ("decoder1", "decoder_amplitude")


class PtychoNN(nn.Module):
    """The two-headed network of 2020 in its PyTorch form: amplitude by sigmoid, phase by pi * tanh.

    Parameters
    ----------
    width:
        Channels of the first stage; each further one has twice as many. The published one has 32.
    levels:
        Stages down, and up.
    last:
        Channels of the last stage; None for twice `width`.
    normalised:
        Batch normalisation after each convolution.
    placeholders:
        Without normalisation, keep its places in the numbering of layers, as some of the published code does.
    bias:
        Whether convolutions have one.
    phase, amplitude:
        Names of the two decoders; no amplitude: None.
    amplitude_end:
        Last layer of the amplitude: "sigmoid" or "linear".
    """

    def __init__(
        self,
        width: int = 32,
        levels: int = 3,
        *,
        last: int | None = None,
        normalised: bool = False,
        placeholders: bool = False,
        bias: bool = True,
        phase: str = "decoder2",
        amplitude: str | None = "decoder1",
        amplitude_end: str = "sigmoid",
    ) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, norm: bool = True) -> list[nn.Module]:
            between: list[nn.Module] = [nn.Identity()] if placeholders else []
            between = [nn.BatchNorm2d(outputs)] if normalised else between
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias), *(between if norm else [])]

        def stage(inputs: int, outputs: int, way: nn.Module) -> list[nn.Module]:
            return [*conv(inputs, outputs), nn.ReLU(), *conv(outputs, outputs), nn.ReLU(), way]

        def decoder(end: nn.Module | None) -> nn.Sequential:
            layers = [layer for a, b in pairwise(up) for layer in stage(a, b, _twice())]
            return nn.Sequential(*layers, *conv(up[-1], 1, end is not None), *([] if end is None else [end]))

        down = [1, *(width * 2**k for k in range(levels))]
        up = [down[-1], *down[:1:-1], 2 * width if last is None else last]
        pairs = pairwise(down)
        self.encoder = nn.Sequential(*[layer for a, b in pairs for layer in stage(a, b, nn.MaxPool2d(2))])
        self._phase, self._amplitude = phase, amplitude
        if amplitude is not None:
            self.add_module(amplitude, decoder(nn.Sigmoid() if amplitude_end == "sigmoid" else None))
        self.add_module(phase, decoder(nn.Tanh()))
        self.frame_size = 64 if levels == 3 else 128
        """Side of the frames it was trained on, pixels."""
        self.heads = ("phase",) if amplitude is None else ("phase", "amplitude")
        """Outputs, in order."""

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return phase, radians, and amplitude or None, each (B, 1, H, W), of frames (B, 1, H, W)."""
        code = self.encoder(frames)
        phase = cast(Tensor, getattr(self, self._phase)(code)) * math.pi
        return phase, None if self._amplitude is None else cast(Tensor, getattr(self, self._amplitude)(code))


class PtychoNNPhase(PtychoNN):
    """The small phase-only network of APS 26-ID (2023): 0.73 million weights, raw counts in, zero frequency centred.

    Parameters
    ----------
    width:
        Channels of the first stage.
    levels:
        Stages down, and up.
    layout:
        As for :class:`PtychoNN`; its last stage has `width` channels unless this says otherwise.
    """

    def __init__(self, width: int = 16, levels: int = 4, **layout: Any) -> None:
        super().__init__(width, levels, **{"last": width, **layout, "amplitude": None})


def _twice() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear")


def published_network(state: Mapping[str, Tensor]) -> PtychoNN:
    """Return the member of the family that a state dict belongs to, with its weights, ready to infer.

    Raises
    ------
    FormatError
        When it belongs to none.
    """
    first = state.get("encoder.0.weight")
    if first is None or first.ndim != 4:
        found = ", ".join(list(state)[:4])
        raise FormatError(f"this is no PtychoNN: it has no 'encoder.0.weight', but {found} ...; give PtychoNN weights")
    phase = next((name for name in PHASE_NAMES if f"{name}.0.weight" in state), None)
    if phase is None:
        raise FormatError(
            f"this PtychoNN has no phase: neither {' nor '.join(PHASE_NAMES)} is in it; a live image needs the phase"
        )
    amplitude = next((name for name in AMPLITUDE_NAMES if f"{name}.0.weight" in state), None)
    places = _convolutions(state, "encoder")
    levels, wide = len(places) // 2, len(places) > 1 and places[1] == 3  # a place for the norm lies between
    layout: dict[str, Any] = {
        "last": int(state[f"{phase}.{_convolutions(state, phase)[-1]}.weight"].shape[1]),
        "normalised": "encoder.1.running_mean" in state,
        "placeholders": wide,
        "bias": "encoder.0.bias" in state,
        "phase": phase,
    }
    if amplitude is None:
        network: PtychoNN = PtychoNNPhase(first.shape[0], levels, **layout)
    else:
        end = "linear" if amplitude == "decoder_amplitude" and levels == 4 else "sigmoid"
        network = PtychoNN(first.shape[0], levels, **layout, amplitude=amplitude, amplitude_end=end)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise FormatError(f"these weights do not fit {type(network).__name__}: {text}") from error
    return network.eval()


def _convolutions(state: Mapping[str, Tensor], part: str) -> list[int]:
    """Return the places of the convolutions in a Sequential named `part`."""
    found = [re.fullmatch(rf"{part}\.(\d+)\.weight", key) for key, value in state.items() if value.ndim == 4]
    return sorted(int(match[1]) for match in found if match)
