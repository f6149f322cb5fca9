"""The files of a checkpoint: none may be missing, damaged or a pickle, and what they hold makes a hash."""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ernie_qa.errors import ModelError
from ernie_qa.toml_input import one_line, parse_json, read_json

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Suffixes of checkpoints that run code when they are read."""
LARGE = 64 * 2**20
"""Bytes. Of a larger safetensors file the header and a sample go into a model's hash."""
SAMPLES = 64
"""How many pieces of a large file are the sample."""
SAMPLE = 64 * 2**10
"""Bytes of each of them."""
MAX_HEADER = 100 * 2**20
"""Bytes. What the safetensors library itself allows; no index of shards is larger either."""

MAX_CONFIG = 16 * 2**20
"""Bytes. A tokenizer's config lists its added tokens."""

_CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "scheduler_config.json")
_INDEX = "*.safetensors.index.json"
_DAMAGED = "damaged: it does not begin with a safetensors header"


def pickles(path: Path, components: Iterable[str]) -> list[Path]:
    """The pickle checkpoints that loading the model in `path` could meet: beside model_index.json, and in the
    folders of its `components`. Other folders are never read."""
    files = [file for file in path.iterdir() if file.is_file()]
    for component in components:
        files += files_in(path / component)
    return sorted(file for file in files if file.suffix.lower() in PICKLES)


def check_component(folder: Path) -> None:
    """ModelError where the component in `folder` lacks its weights, or a file that something names there."""
    if not folder.is_dir():
        raise ModelError(one_line(f"{folder}: missing, but model_index.json names this component"))
    for file in sorted(folder.rglob("*")):
        # a hub cache is links to its blobs, which may be gone
        if file.is_symlink() and not file.exists():
            raise ModelError(one_line(f"{file}: a link to a file that is not there; fetch it again"))
    for index in sorted(folder.glob(_INDEX)):
        _check_shards(index)
    for name in _CONFIGS:
        if (file := folder / name).is_file() and "auto_map" in (
            table := read_json(file, ModelError, MAX_CONFIG)
        ):
            table.fail("auto_map", "names code of the model's own, which is never run; take it out")
    if (folder / "config.json").is_file() and not any(
        file.suffix == ".safetensors" for file in files_in(folder)
    ):
        raise ModelError(
            one_line(f"{folder}: no weights: a component with config.json needs a .safetensors file")
        )


def files_in(folder: Path) -> tuple[Path, ...]:
    """All files below `folder`, links to files among them, sorted."""
    return tuple(sorted(file for file in folder.rglob("*") if file.is_file()))


def weights_hash(file: Path) -> str:
    """The sha256 of a file; of a safetensors file of more than `LARGE` bytes, its size and the sha256 of its
    header (names, shapes, types, offsets) and of `SAMPLES` evenly spaced pieces of `SAMPLE` bytes.

    ModelError where a safetensors file is not as long as its header says.
    """
    if file.suffix != ".safetensors":
        return file_hash(file)
    header = _header(file)
    size, start = file.stat().st_size, 8 + len(header)
    wanted = start + max(_tensors(header, file).values(), default=0)
    if size != wanted:
        what = "truncated" if size < wanted else "damaged"
        raise ModelError(
            one_line(f"{file}: {what}: its header says {wanted} B, it holds {size} B; fetch it again")
        )
    if size <= LARGE:
        return file_hash(file)
    sample = hashlib.sha256(header)
    span = max(size - start - SAMPLE, 0)
    with file.open("rb") as opened:
        for index in range(SAMPLES):
            opened.seek(start + span * index // (SAMPLES - 1))
            sample.update(opened.read(SAMPLE))
    return f"{size}:{sample.hexdigest()}"


def tensor_bytes(file: Path) -> int:
    """Bytes of a safetensors file without its header. ModelError where it has none."""
    return file.stat().st_size - 8 - len(_header(file))


def file_hash(file: Path) -> str:
    """The sha256 of all of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_shards(index: Path) -> None:
    """ModelError where `index` can't be read, or a shard or tensor that it names is not there: a tensor that
    is missing would be drawn at random while loading."""
    weight_map = read_json(index, ModelError, MAX_HEADER).table("weight_map")
    shards: dict[str, list[str]] = {}
    for tensor in weight_map:
        name = weight_map.text(tensor)
        if PurePosixPath(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            weight_map.wrong(tensor, "a .safetensors file beside the index")
        shards.setdefault(name, []).append(tensor)
    if not shards:
        weight_map.fail(None, "names no file; fetch it again")
    for name, tensors in sorted(shards.items()):
        file = index.parent / name
        if not file.is_file():
            raise ModelError(one_line(f"{file}: missing, but listed in {index.name}; fetch it again"))
        held = _tensors(_header(file), file)
        if lacking := sorted(set(tensors) - held.keys()):
            raise ModelError(
                one_line(f"{file}: does not hold {lacking[0]}, as {index.name} says; fetch it again")
            )


def _header(file: Path) -> bytes:
    """The JSON that a safetensors file begins with, after 8 bytes that say how long it is."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(size - 8, MAX_HEADER):
            raise ModelError(one_line(f"{file}: {_DAMAGED}"))
        return opened.read(length)


def _tensors(header: bytes, file: Path) -> dict[str, int]:
    """The tensors in a safetensors `header`: name -> where its bytes end, counted from the header's end."""
    try:
        entries = parse_json(header.decode()).items()
        return {name: int(entry["data_offsets"][1]) for name, entry in entries if name != "__metadata__"}
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ModelError(one_line(f"{file}: {_DAMAGED}")) from None
