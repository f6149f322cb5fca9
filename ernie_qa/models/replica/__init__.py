"""A replica: the full-size ERNIE-Image architecture with random weights, as an ordinary model directory.

Its pictures mean nothing. Its sizes, kernels, latency and memory are the real ones, for they hang on shapes
alone, so it serves where the real weights are not at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ernie_qa.errors import InputError
from ernie_qa.models.find import MANIFEST_SCHEMA
from ernie_qa.models.place import Terms, unfinished
from ernie_qa.models.replica.architecture import modules, others
from ernie_qa.models.replica.stored import File, files_of
from ernie_qa.models.replica.values import SEED_LIMIT, Values

SUITE = "turbo10"
BESIDE = 64 * 2**20
"""Bytes that must be free beyond the weights, for the configurations and two tokenizers: 6.4 MB at full size,
and the file system's own share."""

_COMPONENTS = {
    "transformer": ("diffusion_pytorch_model", 10 * 10**9),
    "text_encoder": ("model", 50 * 10**9),
    "pe": ("model", 50 * 10**9),
    "vae": ("diffusion_pytorch_model", 10 * 10**9),
}
"""What each library's `save_pretrained` calls the files, and how many bytes it puts in one at most."""


def sizes(scale: float = 1.0) -> dict[str, int]:
    """Bytes of tensors by component of a replica at `scale`, exact; nothing is written."""
    _check(scale)
    return {
        component: sum(file.tensor_bytes for file in files)
        for component, files in _plan(modules(scale)).items()
    }


def write_replica(
    directory: Path,
    *,
    scale: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a replica to the new or empty `directory`, all or nothing, and return where it is.

    `scale`, in (0, 1], shrinks widths, depths and vocabulary: 1 is ERNIE-Image's own size, 31.6 GB. `seed`,
    from 0, chooses the weights; the same seed and scale give the same bytes on every machine. `progress` is
    called with the bytes written and all bytes to write. InputError where something given is wrong or
    `directory` is not empty, UnavailableError where the disk is too small or cannot be written.
    """
    _check(scale, seed)
    weighted = modules(scale)
    plan = _plan(weighted)
    needed = sum(file.size for files in plan.values() for file in files) + BESIDE
    terms = Terms(smaller="write a smaller one with --scale")
    with unfinished(Path(directory), lambda hidden: needed, terms) as place:
        versions = _save_configuration({**weighted, **others(scale)}, place)
        _write_weights(plan, place, seed, progress)
        _write_manifest(place, scale, seed, versions)
    return Path(directory)


def _check(scale: float, seed: int = 0) -> None:
    if not 0 < scale <= 1:
        raise InputError(f"scale {scale}: allowed is a number above 0, and 1 at most")
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"seed {seed}: allowed is a whole number from 0, below 2**128")


def _plan(weighted: dict[str, Any]) -> dict[str, tuple[File, ...]]:
    return {component: files_of(weighted[component], *how) for component, how in _COMPONENTS.items()}


def _write_weights(
    plan: dict[str, tuple[File, ...]], place: Path, seed: int, progress: Callable[[int, int], None] | None
) -> None:
    values = Values(seed)
    done, total = 0, sum(file.tensor_bytes for files in plan.values() for file in files)
    for component, files in plan.items():
        for file in files:
            with (place / component / file.name).open("wb") as opened:
                opened.write(file.header())
                for chunk in chain.from_iterable(values.of(component, tensor) for tensor in file.tensors):
                    opened.write(chunk.data)
                    done += chunk.nbytes
                    if progress:
                        progress(done, total)
        _write_index(place / component, files)


def _save_configuration(parts: dict[str, Any], place: Path) -> dict[str, str]:
    """model_index.json and all configurations, as the libraries write them but for their own versions, which
    are returned: those would make another model of the same weights."""
    from diffusers import ErnieImagePipeline

    pipe: Any = ErnieImagePipeline(**parts)
    pipe.save_config(place)
    for name, part in parts.items():
        folder = place / name
        if name in ("transformer", "vae"):
            part.save_config(folder)
        elif name in ("text_encoder", "pe"):
            # what transformers' save_pretrained does beside writing the weights
            part.config.dtype = "bfloat16"
            part.config.architectures = [type(part).__name__]
            part.config.save_pretrained(folder)
            if part.can_generate():
                part.generation_config.save_pretrained(folder)
        else:
            part.save_pretrained(folder)
    versions = dict(_without_version(place / "model_index.json"))
    for file in sorted(place.glob("*/*config.json")):
        versions |= _without_version(file)
    return versions


def _without_version(file: Path) -> Iterator[tuple[str, str]]:
    """Take the library's version out of a configuration, and give it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for key, library in (("_diffusers_version", "diffusers"), ("transformers_version", "transformers")):
        if version := content.pop(key, None):
            yield library, version
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_index(folder: Path, files: tuple[File, ...]) -> None:
    """Which file holds which tensor, where there is more than one."""
    if len(files) == 1:
        return
    content = {
        "metadata": {"total_size": sum(file.tensor_bytes for file in files)},
        "weight_map": {tensor.name: file.name for file in files for tensor in file.tensors},
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text, encoding="utf-8")


def _write_manifest(place: Path, scale: float, seed: int, versions: dict[str, str]) -> None:
    size = "full-size" if scale == 1 else "shrunken"
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "name": "replica" if scale == 1 else f"replica-{scale:g}",
        "weights": "random",
        "suite": SUITE,
        "summary": f"The {size} ERNIE-Image architecture with random weights: its pictures mean nothing",
        "training": {"scale": scale, "seed": seed, **versions},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (place / "ernie_qa.json").write_text(text, encoding="utf-8")
