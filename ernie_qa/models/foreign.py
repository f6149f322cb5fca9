"""Whether a component that ought to be plain BF16 holds anything else."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ernie_qa.errors import UnavailableError
from ernie_qa.quantizers import find_quantizer, quantizer_names
from ernie_qa.quantizers.layers import dtype_name

if TYPE_CHECKING:
    from torch.nn import Module


def foreign(module: Module) -> list[str]:
    """The layers that are not plain BF16: of a quantizer's own class, or holding a tensor that a BF16 model
    has not, which is then named with its type."""
    packages: set[str] = set()
    for name in quantizer_names():
        # what cannot be imported made no layer here
        with suppress(UnavailableError):
            packages.update(find_quantizer(name).PACKAGES)
    found = []
    for name, layer in module.named_modules():
        if type(layer).__module__.partition(".")[0] in packages:
            found.append(f"{name} ({type(layer).__name__})")
        elif odd := _odd_tensor(layer):
            found.append(f"{name}.{odd}".lstrip("."))
    return found


def _odd_tensor(layer: Module) -> str:
    """The first of the layer's own tensors that no BF16 model holds, and its type; empty if there is none."""
    import torch

    # float32 tables of a rotary embedding, counters and masks are a plain model's too
    plain = {torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool}
    for tensors, dtypes in ((layer._parameters, {torch.bfloat16}), (layer._buffers, plain)):
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            # torchao and quanto pack weights into classes of their own, which say that they are BF16
            if type(tensor.data) is not torch.Tensor:
                return f"{name} ({type(tensor.data).__name__})"
            if tensor.dtype not in dtypes:
                return f"{name} ({dtype_name(tensor.dtype)})"
    return ""
