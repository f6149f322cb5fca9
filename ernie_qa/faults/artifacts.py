"""Artifacts: directories that were quantized before, and spoilt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ernie_qa.faults import INT8, UINT4, clean, fault


def _edited(file: Path, change: Any) -> None:
    stored = json.loads(file.read_text("utf-8"))
    change(stored)
    file.write_text(json.dumps(stored), "utf-8")


def _weights(directory: Path, change: Any) -> None:
    """Change the tensors of the first safetensors file in a directory."""
    from safetensors.torch import load_file, save_file

    file = min(directory.glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@fault("a pickle in the artifact", rung="loading", recipe=UINT4, at="artifact")
def pickled(artifact: Path) -> None:
    (artifact / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04N.")


@fault("an artifact that claims INT8", rung="package", component="pe", recipe=UINT4, at="artifact")
def claims(artifact: Path) -> None:
    _edited(
        artifact / "pe" / "config.json",
        lambda stored: stored["quantization_config"].update(weights_dtype="int8"),
    )


@fault(
    "an artifact that claims no kernels",
    rung="package",
    component="pe",
    recipe=UINT4,
    at="artifact",
    survives="one artifact serves a recipe with quantized matmul and one without, and loads as either",
)
def claims_no_kernels(artifact: Path) -> None:
    _edited(
        artifact / "pe" / "config.json",
        lambda stored: stored["quantization_config"].update(use_quantized_matmul=False),
    )


@fault(
    "another shift in the artifact",
    rung="package",
    component="scheduler",
    recipe=INT8,
    at="artifact",
)
def other_shift(artifact: Path) -> None:
    _edited(artifact / "scheduler" / "scheduler_config.json", lambda stored: stored.update(shift=1.0))


@fault("the artifact's VAE is another", rung="package", component="vae", recipe=INT8, at="artifact")
def other_vae(artifact: Path) -> None:
    _weights(artifact / "vae", lambda tensors: tensors["decoder.conv_in.weight"].add_(0.01))


@fault("a truncated file in the artifact", rung="loading", recipe=UINT4, at="artifact")
def truncated(artifact: Path) -> None:
    file = min((artifact / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4096])


@fault("a component of the artifact missing", rung="loading", recipe=INT8, at="artifact")
def missing(artifact: Path) -> None:
    _edited(artifact / "model_index.json", lambda stored: stored.pop("pe"))


@fault(
    "one artifact tensor zeroed",
    rung="package",
    component="transformer",
    recipe=INT8,
    at="artifact",
)
def zeroed(artifact: Path) -> None:
    _weights(artifact / "transformer", lambda tensors: tensors["layers.3.mlp.up_proj.weight"].zero_())


@fault(
    "one weight in ten flipped",
    rung="package",
    component="text_encoder",
    recipe=UINT4,
    at="artifact",
)
def flipped(artifact: Path) -> None:
    def flip(tensors: Any) -> None:
        name = next(one for one in tensors if one.endswith("layers.1.mlp.up_proj.weight"))
        tensors[name].flatten()[::10] ^= 0x88

    _weights(artifact / "text_encoder", flip)


@clean("UINT4: loaded from an artifact", recipe=UINT4, at="artifact")
def reloaded(artifact: Path) -> None:
    pass


@clean("INT8: loaded from an artifact", recipe=INT8, at="artifact")
def reloaded_int8(artifact: Path) -> None:
    pass
