"""The published family in all its forms, beside a plain rebuild of the layers: same keys, same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ptycho_bluesky.errors import FormatError
from ptycho_bluesky.inference import PtychoNN, PtychoNNPhase
from ptycho_bluesky.inference._ptychonn import published_network

PHASE_2023 = {"levels": 4, "last": 1, "names": {"decoder2": "phase"}}
TWO_HEADS_2020 = {"levels": 3, "last": 2, "names": {"decoder1": "sigmoid", "decoder2": "phase"}}
FORMS = {
    "2020, two heads": TWO_HEADS_2020,
    "2023, phase": PHASE_2023,
    "2023, phase, norms": PHASE_2023 | {"norm": "batch"},
    "2023, phase, norms, no bias": PHASE_2023 | {"norm": "batch", "bias": False},
    "2023, phase, places for norms": PHASE_2023 | {"norm": "places"},
    "package, linear amplitude": {
        "levels": 4,
        "last": 1,
        "names": {"decoder_amplitude": "linear", "decoder_phase": "phase"},
        "norm": "batch",
    },
    "package, two heads by sigmoid": {"levels": 4, "last": 1, "names": {"decoder1": "sigmoid", "decoder2": "phase"}},
    "2020 in the package, norms": {
        "levels": 3,
        "last": 1,
        "names": {"decoder_amplitude": "sigmoid", "decoder_phase": "phase"},
        "norm": "batch",
    },
}


class Plain(nn.Module):
    """The layers written out one after the other; sums of conv, norm, ReLU as the published listings have them."""

    def __init__(self, width: int, levels: int, last: int, names: dict[str, str], norm: str = "", bias: bool = True):
        super().__init__()
        self.names = names
        layers: list[nn.Module] = []

        def add(inputs: int, outputs: int, then: nn.Module) -> None:
            for a in (inputs, outputs):
                layers.append(nn.Conv2d(a, outputs, kernel_size=3, stride=1, padding=1, bias=bias))
                if norm:
                    layers.append(nn.BatchNorm2d(outputs) if norm == "batch" else nn.Identity())
                layers.append(nn.ReLU())
            layers.append(then)

        channels = 1
        for level in range(levels):
            add(channels, width * 2**level, nn.MaxPool2d((2, 2)))
            channels = width * 2**level
        self.encoder = nn.Sequential(*layers)
        for name, end in names.items():
            layers.clear()
            inputs = channels
            for level in reversed(range(levels)):
                outputs = last * width if level == 0 else width * 2**level
                add(inputs, outputs, nn.Upsample(scale_factor=2, mode="bilinear"))
                inputs = outputs
            layers.append(nn.Conv2d(inputs, 1, 3, padding=1, bias=bias))
            if norm and end != "linear":
                layers.append(nn.BatchNorm2d(1) if norm == "batch" else nn.Identity())
            if end != "linear":
                layers.append(nn.Tanh() if end == "phase" else nn.Sigmoid())
            self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        code = self.encoder(x)
        return {("phase" if e == "phase" else "amplitude"): getattr(self, n)(code) for n, e in self.names.items()}


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_load_key_for_key_and_outputs_agree(form):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        plain = Plain(8, **FORMS[form])
        frames = torch.poisson(torch.full((2, 1, 64, 64), 3.0))
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics of a training
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    plain.eval()
    network = published_network(plain.state_dict())
    assert list(network.state_dict()) == list(plain.state_dict())
    with torch.inference_mode():
        wanted = plain(frames)
        phase, amplitude = network(frames)
    torch.testing.assert_close(phase, math.pi * wanted["phase"], atol=1e-5, rtol=1e-5)
    assert phase.std() > 0
    assert (amplitude is None) == ("amplitude" not in wanted)
    if amplitude is not None:
        torch.testing.assert_close(amplitude, wanted["amplitude"], atol=1e-5, rtol=1e-5)
    assert isinstance(network, PtychoNNPhase) == (amplitude is None)
    assert network.frame_size == (64 if FORMS[form]["levels"] == 3 else 128)


def test_published_sizes_of_all_levels():
    def weights(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    assert weights(PtychoNN()) == 1_247_074
    assert weights(PtychoNNPhase()) == 733_921
    assert weights(PtychoNN(32, 4, last=32)) == 4_694_690  # Babu et al. (2023): 4.7 million


def test_what_is_not_of_the_family_is_refused():
    state = PtychoNN(4).state_dict()
    amplitude_alone = {k: v for k, v in state.items() if not k.startswith("decoder2")}
    with pytest.raises(FormatError, match="has no phase"):
        published_network(amplitude_alone)
    with pytest.raises(FormatError, match=r"no 'encoder\.0\.weight'"):
        published_network({"x": torch.zeros(1)})
    with pytest.raises(FormatError, match=r"do not fit PtychoNN.*decoder1\.7"):
        published_network({k: v for k, v in state.items() if k != "decoder1.7.weight"})
