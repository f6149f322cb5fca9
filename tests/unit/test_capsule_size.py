"""A capsule of the full size, calculated from the shapes of its modules and of its suite."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ernie_qa.capsules.capsule import Part
from ernie_qa.capsules.container import MAX_BYTES, PUBLISHED
from ernie_qa.capsules.publish import ROOM
from ernie_qa.capsules.trimming import size, trimmed
from ernie_qa.frozen import Frozen
from ernie_qa.models.replica.architecture import modules, others
from ernie_qa.suite import find_suite
from ernie_qa.teacher import ROWS, TOKENS, VALUES
from tests.unit.test_capsule import SHA, made

SUITE = find_suite("turbo10")
Tape = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return modules(1.0)


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def linears(parts: dict[str, Any]) -> dict[str, torch.nn.Linear]:
    """Those that are called, as COMPONENT/LAYER."""
    return {
        f"{part}/{name}": module
        for part in ("pe", "text_encoder", "transformer")
        for name, module in parts[part].named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(("vision", "multi_modal"))
    }


def layers(parts: dict[str, Any]) -> Tape:
    found: Tape = {}
    for place, module in linears(parts).items():
        rows = max(1, min(ROWS, VALUES // (module.in_features + module.out_features)))
        made = empty(rows, module.out_features)
        found[f"layers/{place}/shape"] = torch.empty(3, dtype=torch.int64, device="meta")
        found[f"layers/{place}/rows"] = empty(rows, module.in_features)
        found[f"layers/{place}/outputs"] = found[f"{PUBLISHED}layers/{place}/outputs"] = made
    return found


def tape(parts: dict[str, Any]) -> Tape:
    found = layers(parts)
    width = parts["text_encoder"].config.text_config.hidden_size
    # no more than 4 letters a token: the original's makes fewer
    words = others(1.0)["tokenizer"]
    channels = parts["transformer"].config.in_channels
    for case in SUITE.cases[:2]:
        latents = empty(1, channels, case.height // 16, case.width // 16)
        states = empty(len(words(case.prompt)["input_ids"]), width)
        ours = {
            f"{case.id}/text_encoder/0/states": states,
            f"{case.id}/vae/decoded": empty(1, 3, case.height, case.width),
        }
        for step in range(SUITE.steps):
            ours[f"{case.id}/transformer/{step}/prediction"] = latents
            found[f"{case.id}/transformer/{step}/hidden_states"] = latents
            found[f"{case.id}/transformer/{step}/text"] = torch.empty((), dtype=torch.int64, device="meta")
        found |= {f"{case.id}/scheduler/0/{name}": latents for name in ("model_output", "sample", "prev")}
        found[f"{case.id}/scheduler/sigmas"] = empty(SUITE.steps + 1)
        found |= {f"{case.id}/vae/latents": latents, f"{case.id}/text/0/bth": states}
        found |= ours | {PUBLISHED + name: one for name, one in ours.items()}
    first = SUITE.cases[0].id
    logits = empty(TOKENS, parts["pe"].config.vocab_size)
    found |= {f"pe/{first}/logits": logits, f"{PUBLISHED}pe/{first}/logits": logits}
    return found


def test_the_full_size_fits_with_both_cases_and_every_layer(parts: dict[str, Any]) -> None:
    whole = tape(parts)
    assert size(whole) > 4 * MAX_BYTES
    kept, left_out = trimmed(whole, MAX_BYTES - ROOM)
    assert size(kept) <= MAX_BYTES - ROOM
    assert not [said for said in left_out if "the case" in said]
    for case in SUITE.cases[:2]:
        calls = [name for name in kept if name.startswith(f"{PUBLISHED}{case.id}/transformer/")]
        assert len(calls) == 3
        assert {f"{case.id}/vae/latents", f"{PUBLISHED}{case.id}/text_encoder/0/states"} <= set(kept)
    for place in linears(parts):
        assert len(kept[f"layers/{place}/rows"]) == len(kept[f"{PUBLISHED}layers/{place}/outputs"]) >= 1


def test_the_full_sizes_document_and_names_have_room(parts: dict[str, Any]) -> None:
    found = {}
    for name, module in parts.items():
        mine = [layer.partition("/")[2] for layer in linears(parts) if layer.startswith(f"{name}/")]
        found[name] = Part(
            quantizer="sdnq",
            artifact=True,
            flag=Frozen({}),
            # no two alike, which is more than there can be
            states=Frozen({layer: Frozen({"quantized": True, "shape": layer, "bits": 4}) for layer in mine}),
            tensors=Frozen(dict.fromkeys(module.state_dict(), SHA)),
            calls=Frozen(dict.fromkeys(mine, (16, 16))),
        )
    figures = {
        place: {"l2": 0.123456789012345, "gain": 0.998765432101234, "rows": 16} for place in linears(parts)
    }
    capsule = replace(
        made(),
        parts=Frozen(found),
        figures=Frozen({"layers": Frozen({name: Frozen(one) for name, one in figures.items()})}),
        content=save({name: torch.empty(0) for name in tape(parts)}),
    )
    assert len(capsule.packed()) < ROOM
