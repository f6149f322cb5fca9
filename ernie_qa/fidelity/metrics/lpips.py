"""Learned perceptual image patch similarity (Zhang et al. 2018), AlexNet, version 0.1."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from ernie_qa.fidelity.metrics import paired

if TYPE_CHECKING:
    from torch.nn import Module

    from ernie_qa.fidelity.metrics import Pixels

NAME = "lpips"
UNIT = ""
BETTER: Literal["lower", "higher"] = "lower"
IDEAL = 0.0
NOISE = {"mean": 0.00012, "worst": 0.00028}
DEFINITION = "lpips 0.1, AlexNet, linear layers of the lpips package, RGB in -1..1, float32, full size"

MINIMUM_SIDE = 31
"""Below it AlexNet's second pooling has nothing left to pool."""


def score(reference: Sequence[Pixels], candidate: Sequence[Pixels], device: str) -> list[float]:
    """LPIPS of each pair of uint8 [H, W, 3] pictures of at least 31 x 31; exactly 0 where identical.

    Fetches the backbone's weights where this machine lacks them; UnavailableError where it cannot.
    """
    import torch

    network = _network()
    if torch.device(device).type != "cpu":
        # A copy, dropped afterwards: what stays on a GPU would count as the next arm's memory.
        network = copy.deepcopy(network).to(device)
    scores = []
    # TF32 and cuDNN's choice of algorithm would move a score by more than two runs may differ.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact:
        for one, other in paired(reference, candidate, device):
            if min(one.shape[-2:]) < MINIMUM_SIDE:
                raise ValueError(f"LPIPS needs at least 31 x 31 pixels, not {tuple(one.shape[-2:])}")
            scores.append(float(network((one / 127.5 - 1).float(), (other / 127.5 - 1).float())))
    return scores


@cache
def _network() -> Module:
    """The genuine network on the CPU, in evaluation mode; built once a process."""
    import lpips
    import torch

    from ernie_qa.fidelity.lpips_weights import backbone

    weights = backbone()
    # pnet_rand keeps torchvision from downloading, and draws weights that are overwritten below; the
    # caller's random numbers must not move for it.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network: Module = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    own = {name.split(".", 2)[2]: tensor for name, tensor in network.state_dict().items() if "slice" in name}
    for name, tensor in own.items():
        tensor.copy_(weights[f"features.{name}"])
    return network.eval()
