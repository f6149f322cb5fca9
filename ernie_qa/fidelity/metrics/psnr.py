"""Peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ernie_qa.fidelity.metrics import paired

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels

NAME = "psnr"
UNIT = "dB"
BETTER: Literal["lower", "higher"] = "higher"
IDEAL = None
NOISE = None
DEFINITION = "10 log10(255^2 / MSE) over all values of the uint8 RGB pictures, by torchmetrics"


def score(reference: Sequence[Pixels], candidate: Sequence[Pixels], device: str) -> list[float]:
    """PSNR in dB of each pair of uint8 [H, W, 3] pictures; `inf` where the two are identical."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return [
        float(peak_signal_noise_ratio(other, one, data_range=255.0))
        for one, other in paired(reference, candidate, device)
    ]
