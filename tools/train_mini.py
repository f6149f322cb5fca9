"""Train the miniature from nothing, in stages of a few minutes on one GPU.

    python tools/train_mini.py vae work
    python tools/train_mini.py enhancer work
    python tools/train_mini.py denoiser work      # again, until it says that it is finished
    python tools/train_mini.py assemble work ernie_qa/models/mini
    python tools/evaluate_mini.py ernie_qa/models/mini

Every stage renders its own data, is seeded, and leaves its result in the work directory; the denoiser
stops after --minutes and goes on from its checkpoint when it is called again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def _note(work: Path, stage: str, began: float, **figures: Any) -> None:
    """Add what a stage did to the work directory's log; the manifest carries it on."""
    import torch

    log = work / "training.json"
    stages = json.loads(log.read_text()) if log.exists() else []
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    stages.append({"stage": stage, "seconds": round(time.monotonic() - began), "device": gpu,
                   "torch": torch.__version__, **figures})  # fmt: skip
    log.write_text(json.dumps(stages, indent=1) + "\n")


def _vae(work: Path, device: str, options: argparse.Namespace) -> None:
    from miniature.data import training_posters
    from miniature.training import Plan, train_vae

    began = time.monotonic()
    plan = Plan(options.steps or 5000, 7000, options.batch or 64, rate=2e-3, minutes=options.minutes)
    vae, done = train_vae(training_posters(options.posters or 16_000, seed=1), plan, device)
    vae.save_pretrained(work / "vae")
    _note(work, "vae", began, steps=done, batch=plan.batch)


def _enhancer(work: Path, device: str, options: argparse.Namespace) -> None:
    import random

    from miniature import networks
    from miniature.posters import training_poster
    from miniature.training import Plan, train_enhancer

    began = time.monotonic()
    rng = random.Random(5)
    posters = [training_poster(rng) for _ in range(options.posters or 40_000)]
    plan = Plan(options.steps or 4000, 4000, options.batch or 128, rate=2e-3, minutes=options.minutes)
    enhancer, done = train_enhancer(networks.tokenizer(), posters, plan, device)
    enhancer.save_pretrained(work / "pe")
    _note(work, "enhancer", began, steps=done, batch=plan.batch)


def _denoiser(work: Path, device: str, options: argparse.Namespace) -> None:
    import torch
    from diffusers import AutoencoderKLFlux2

    from miniature import networks
    from miniature.data import training_posters
    from miniature.training import Plan, train_denoiser

    began = time.monotonic()
    vae = AutoencoderKLFlux2.from_pretrained(work / "vae", dtype=torch.bfloat16).to(device)
    vae.to(memory_format=torch.channels_last)
    plan = Plan(
        options.steps or 11_250,
        20_000,
        options.batch or 128,
        rate=1e-3,
        average=0.9995,
        minutes=options.minutes,
    )
    posters = training_posters(options.posters or 120_000, seed=2)
    transformer, text_encoder, done = train_denoiser(
        vae, networks.tokenizer(), posters, plan, device, work / "denoiser.safetensors"
    )
    transformer.save_pretrained(work / "transformer")
    text_encoder.save_pretrained(work / "text_encoder")
    _note(work, "denoiser", began, steps=done, batch=plan.batch)
    print("finished" if done >= plan.steps else "not finished: call this stage again", flush=True)


def _assemble(work: Path, device: str, options: argparse.Namespace) -> None:
    import torch
    from diffusers import AutoencoderKLFlux2, ErnieImageTransformer2DModel
    from transformers import Ministral3ForCausalLM, Mistral3Model

    from miniature import networks
    from miniature.assembly import assemble, write_manifest

    kept: dict[str, Any] = {
        "transformer": ErnieImageTransformer2DModel,
        "vae": AutoencoderKLFlux2,
        "text_encoder": Mistral3Model,
        "pe": Ministral3ForCausalLM,
    }
    parts = {name: kind.from_pretrained(work / name, dtype=torch.bfloat16) for name, kind in kept.items()}
    parts |= {
        "tokenizer": networks.tokenizer(),
        "pe_tokenizer": networks.tokenizer(),
        "scheduler": networks.scheduler(),
    }
    assemble(parts, options.directory)
    write_manifest(options.directory, {"stages": json.loads((work / "training.json").read_text())})


def main() -> None:
    """Run one stage."""
    stages = {"vae": _vae, "enhancer": _enhancer, "denoiser": _denoiser, "assemble": _assemble}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=stages)
    parser.add_argument("work", type=Path, help="where the stages leave their results")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("ernie_qa/models/mini"))
    parser.add_argument(
        "--minutes",
        type=float,
        default=6.5,
        help="stop training after this long; rendering and encoding come on top, about a minute",
    )
    parser.add_argument("--steps", type=int, help="instead of the stage's own number")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--posters", type=int, help="how many to render")
    options = parser.parse_args()

    import torch

    options.work.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    stages[options.stage](options.work, "cuda" if torch.cuda.is_available() else "cpu", options)


if __name__ == "__main__":
    main()
