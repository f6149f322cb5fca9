"""From trained parts to the model directory that the package ships: weights, manifest and model card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def assemble(parts: dict[str, Any], directory: Path) -> None:
    """Save the five components and two tokenizers as an ordinary diffusers directory in BF16."""
    import torch
    from diffusers import ErnieImagePipeline

    pipe = ErnieImagePipeline(**parts)
    for name in ("transformer", "text_encoder", "pe", "vae"):
        getattr(pipe, name).to("cpu", torch.bfloat16)
    pipe.vae.to(memory_format=torch.contiguous_format)
    pipe.save_pretrained(directory)


def write_manifest(directory: Path, training: dict[str, Any]) -> None:
    """`ernie_qa.json`: what this is, how it was trained, and the sha256 of every file."""
    manifest = directory / "ernie_qa.json"
    files = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != manifest and path.name != "README.md"
    }
    content = {
        "schema": 1,
        "name": "mini",
        "weights": "trained",
        "suite": "mini",
        "summary": "A small ERNIE-Image pipeline, trained from scratch on procedural posters",
        "training": training,
        "files": files,
    }
    manifest.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
