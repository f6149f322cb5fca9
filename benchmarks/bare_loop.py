"""What drawing costs without ernie_qa: the same loads and the same pictures in a plain loop.

    time python benchmarks/bare_loop.py replica        # beside: time pytest -m gpu --ernie-model=replica
    python benchmarks/bare_loop.py replica --recipe bf16 --recipe bnb-nf4

Loads each recipe's pipeline with diffusers, transformers, sdnq and bitsandbytes themselves, draws every case
of the suite once, and prints what each arm took, and how many kernels were compiled where they are kept. With
--warm-up one step of each case but the first comes before it, as ernie_qa has it. With --kept the kernels are
used that ernie_qa has kept; without, those in Inductor's and Triton's own directories, which a new machine
has empty.
"""

from __future__ import annotations

import argparse
import gc
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import tqdm.auto

from ernie_qa import compile_cache
from ernie_qa.suite import Case, Suite, find_suite

CLASSES = {
    "pe": ("transformers", "Ministral3ForCausalLM"),
    "text_encoder": ("transformers", "Mistral3Model"),
    "transformer": ("diffusers", "ErnieImageTransformer2DModel"),
}
RECIPES = ("bf16", "bnb-nf4", "sdnq-uint4-dequant", "sdnq-uint4-static")


def class_of(name: str) -> Any:
    """A component's class. Importing diffusers sets Inductor's directory for good: not before --kept does."""
    library, found = CLASSES[name]
    return getattr(import_module(library), found)


def load(model: Path, recipe: str) -> Any:
    """The pipeline as the model cards load it."""
    from diffusers import ErnieImagePipeline

    parts = {} if recipe == "bf16" else {name: quantized(model, name, recipe) for name in CLASSES}
    pipe = ErnieImagePipeline.from_pretrained(model, dtype=torch.bfloat16, **parts)
    pipe.set_progress_bar_config(disable=True)
    # what is quantized is on the GPU already
    (pipe if recipe == "bf16" else pipe.vae).to("cuda")
    return pipe


def quantized(model: Path, name: str, recipe: str) -> Any:
    """One component of a recipe that quantizes all three."""
    # it compiles when imported, so the directories must be set
    from diffusers import BitsAndBytesConfig
    from sdnq import SDNQConfig
    from sdnq.loader import apply_sdnq_options_to_model
    from transformers import BitsAndBytesConfig as TransformersBitsAndBytesConfig

    common = {"dtype": torch.bfloat16, "use_safetensors": True}
    if recipe == "bnb-nf4":
        config = BitsAndBytesConfig if name == "transformer" else TransformersBitsAndBytesConfig
        options = config(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return class_of(name).from_pretrained(
            model / name, quantization_config=options, device_map={"": "cuda:0"}, **common
        )
    qmm = recipe == "sdnq-uint4-static"
    options = SDNQConfig(
        weights_dtype="uint4",
        group_size=0,
        dequantize_fp32=False,
        use_quantized_matmul=qmm,
        quantization_device="cuda",
        return_device="cuda",
    )
    part = class_of(name).from_pretrained(model / name, quantization_config=options, **common)
    return apply_sdnq_options_to_model(part, use_quantized_matmul=qmm).to("cuda")


def draw(pipe: Any, case: Case, suite: Suite, steps: int) -> float:
    """Seconds of one picture."""
    began = time.perf_counter()
    shape = (1, pipe.transformer.config.in_channels, case.height // 16, case.width // 16)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(case.seed))
    pipe(
        prompt=case.prompt,
        width=case.width,
        height=case.height,
        num_inference_steps=steps,
        guidance_scale=suite.guidance,
        latents=latents.to("cuda", torch.bfloat16),
        use_pe=False,
        output_type="np",
    )
    torch.cuda.synchronize()
    return time.perf_counter() - began


def arm(model: Path, recipe: str, suite: Suite, *, warm_up: bool) -> str:
    """Load and draw one recipe, and say what it took."""
    began, there = time.perf_counter(), compile_cache.compiled_files()
    pipe = load(model, recipe)
    torch.cuda.synchronize()
    loaded = time.perf_counter() - began
    seconds: list[float] = []
    for case in suite.cases:
        if seconds and warm_up:
            draw(pipe, case, suite, steps=1)
        seconds.append(draw(pipe, case, suite, suite.steps))
    steady = sorted(seconds[1:])
    median = steady[len(steady) // 2]
    said = f"{recipe:20} load {loaded:6.1f} s  first {seconds[0]:6.1f} s  median {median:6.3f} s"
    return f"{said}  compiled {compile_cache.compiled_files() - there}"


def main() -> None:
    """Draw the arms and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", type=Path, help="a BF16 model directory, as `ernie-qa replica` writes it")
    parser.add_argument("--suite", default="turbo10")
    parser.add_argument("--recipe", action="append", choices=RECIPES)
    parser.add_argument(
        "--warm-up", action="store_true", help="one step of each case but the first before it"
    )
    parser.add_argument("--kept", action="store_true", help="with the kernels that ernie_qa has kept")
    options = parser.parse_args()
    if options.kept:
        compile_cache.keep("cuda")
    suite = find_suite(options.suite)
    # in a new process that takes longer than a load, and is no part of it
    from diffusers import ErnieImagePipeline  # noqa: F401

    for name in CLASSES:
        class_of(name)
    began = time.perf_counter()
    for recipe in tqdm.auto.tqdm(options.recipe or RECIPES, disable=None, leave=False):
        print(arm(options.model, recipe, suite, warm_up=options.warm_up), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    print(f"{'together':20} {time.perf_counter() - began:.1f} s, imports not counted")


if __name__ == "__main__":
    main()
