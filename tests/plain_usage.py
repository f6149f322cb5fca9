"""What the published model cards tell people to run: plain diffusers code, without ernie_qa.

    python tests/plain_usage.py sdnq|bitsandbytes DIR DEVICE OUT.npz REQUESTS.json

REQUESTS is a list of calls: prompt, width, height, seed, steps, use_pe. OUT gets a uint8 picture for each, by
its number, and prints how long loading took. The two loaders follow the cards' usage sections.
"""

import json
import sys
import time
from pathlib import Path

import torch


def sdnq_pipeline(directory, device):
    import sdnq  # noqa: F401
    from diffusers import ErnieImagePipeline
    from sdnq.loader import apply_sdnq_options_to_model

    pipe = ErnieImagePipeline.from_pretrained(directory, torch_dtype=torch.bfloat16).to(device)
    for name in ("pe", "text_encoder", "transformer"):
        component = getattr(pipe, name, None)
        if component is not None:
            setattr(pipe, name, apply_sdnq_options_to_model(component, use_quantized_matmul=True))
    return pipe


def nf4_pipeline(directory, device):
    from diffusers import AutoModel, ErnieImagePipeline
    from transformers import AutoModel as TransformersAutoModel
    from transformers import AutoModelForCausalLM

    if device == "cpu":
        # diffusers alone demands a GPU, and takes "cpu" in a device map for offloading
        from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer as Quantizer

        Quantizer.validate_environment = lambda self, *args, **kwargs: None
        Quantizer.update_device_map = lambda self, device_map: device_map
    how = {"dtype": torch.bfloat16, "device_map": {"": device}, "local_files_only": True}
    transformer = AutoModel.from_pretrained(str(directory / "transformer"), **how)
    text_encoder = TransformersAutoModel.from_pretrained(str(directory / "text_encoder"), **how)
    pe = AutoModelForCausalLM.from_pretrained(str(directory / "pe"), **how)
    pipe = ErnieImagePipeline.from_pretrained(
        str(directory),
        transformer=transformer,
        text_encoder=text_encoder,
        pe=pe,
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    pipe.vae.to(device, dtype=torch.bfloat16)
    return pipe


def draw(pipe, device, request):
    """One picture, [height, width, 3] uint8. The prompt enhancer samples from the global random numbers."""
    import numpy as np

    torch.manual_seed(request["seed"])
    image = pipe(
        prompt=request["prompt"],
        width=request["width"],
        height=request["height"],
        num_inference_steps=request["steps"],
        guidance_scale=1.0,
        use_pe=request["use_pe"],
        generator=torch.Generator(device=device).manual_seed(request["seed"]),
    ).images[0]
    return np.asarray(image)


def main(quantizer, directory, device, out, requests):
    import numpy as np

    began = time.monotonic()
    load = {"sdnq": sdnq_pipeline, "bitsandbytes": nf4_pipeline}[quantizer]
    pipe = load(Path(directory), device)
    print(f"{directory}: loaded in {time.monotonic() - began:.1f} s")
    wanted = json.loads(Path(requests).read_text(encoding="utf-8"))
    np.savez(out, **{str(number): draw(pipe, device, one) for number, one in enumerate(wanted)})
    assert not any(name.split(".")[0] == "ernie_qa" for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
