"""How far BF16 moves from its accepted pictures where nothing that matters changed, and where something did.

    python benchmarks/drift.py                       # the shipped miniature against baselines/, on the CPU
    python benchmarks/drift.py --device cuda

Legal: this machine as it is, and another attention kernel. Damage: a share of UINT4's own rounding error,
added to the weights of the transformer, which stays BF16 throughout. Each row ends with the verdict.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.baseline.store import Baseline, find_baseline
from ernie_qa.fingerprint import machine_of
from ernie_qa.models.find import find_model
from ernie_qa.observe import observe
from ernie_qa.pipeline import load_pipeline
from ernie_qa.quiet import hushed
from ernie_qa.recipe import find_recipe
from ernie_qa.regression import drift
from ernie_qa.verdict import worst

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from diffusers import ErnieImagePipeline

    from ernie_qa.record import Record

FIGURES = ("drift_lpips_mean", "drift_lpips_max", "drift_ssim_mean", "drift_ssim_min")
SHARES = (0.25, 0.5, 1.0)


def damaged(device: str, share: float) -> ErnieImagePipeline:
    """BF16 with `share` of UINT4's rounding error in every weight of the transformer that UINT4 rounds."""
    import torch
    from sdnq.layers.linear.forward import get_sdnq_params

    pipe: Any = load_pipeline("mini", "bf16", device)
    quantized: Any = load_pipeline("mini", "sdnq-uint4-dequant", device).transformer
    plain = dict(pipe.transformer.named_modules())
    with torch.no_grad():
        for name, layer in quantized.named_modules():
            if hasattr(layer, "sdnq_dequantizer"):
                weight = plain[name].weight
                rounded = layer.sdnq_dequantizer(**get_sdnq_params(layer))
                weight += share * (rounded.to(weight.dtype) - weight)
    return pipe


def observed(pipe: ErnieImagePipeline, baseline: Baseline, within: AbstractContextManager[None]) -> Record:
    """BF16's record, measured against the accepted pictures."""
    with hushed(), within:
        return observe(pipe, "bf16", "mini", accepted=baseline.pictures)


def row(title: str, record: Record, baseline: Baseline) -> str:
    """The figures of one arm, and what they amount to."""
    checks = {
        check.name.rpartition(".")[2]: check
        for check in drift(record, baseline.accepted["bf16"], baseline.pictures)
    }
    values = "".join(f"{checks[name].measured:18.5f}" for name in FIGURES)
    return f"{title:26}{values}  {worst(check.status for check in checks.values())}"


def main() -> None:
    """Draw every arm and print a row each."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--baselines", type=Path, default=Path("baselines"))
    options = parser.parse_args()
    baseline = find_baseline(options.baselines, find_model("mini").name, machine_of(options.device))
    if baseline is None:
        parser.error(f"{options.baselines}: nothing is accepted for this machine")
    bf16 = baseline.accepted[find_recipe("bf16").name]
    limits = [bf16.figures[f"images.{name}"].limit for name in FIGURES]
    print(f"{'BF16':26}" + "".join(f"{name.removeprefix('drift_'):>18}" for name in FIGURES))
    print(f"{'limit':26}" + "".join(f"{limit:18.5f}" for limit in limits))
    for title, within in (("this machine", nullcontext()), ("math attention", sdpa_kernel(SDPBackend.MATH))):
        with hushed():
            pipe = load_pipeline("mini", "bf16", options.device)
        print(row(title, observed(pipe, baseline, within), baseline), flush=True)
    for share in SHARES:
        with hushed():
            pipe = damaged(options.device, share)
        record = observed(pipe, baseline, nullcontext())
        print(row(f"{share:.0%} of UINT4's error", record, baseline), flush=True)


if __name__ == "__main__":
    main()
