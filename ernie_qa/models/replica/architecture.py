"""The seven components of ERNIE-Image, at its own size or smaller."""

from __future__ import annotations

from typing import Any

from ernie_qa.models.replica.tokenizers import BOS, EOS, PAD, tokenizer

HEAD = 128
"""Values of an attention head at every scale: the transformer's rotary axes (32, 48, 48) sum to it."""
GROUP = 32
"""The VAE's channels are multiples of its normalization's groups."""
CONTEXT = 262144
"""Tokens that the text encoder can place."""
ENHANCED = 512
"""Tokens that the prompt enhancer writes at most. The original's tokenizer_config.json was not at hand."""


def modules(scale: float) -> dict[str, Any]:
    """The components that hold weights, by name, on the meta device: they have shapes and take no memory.

    At `scale` 1 the configuration gives the sizes of the published BF16 files of ERNIE-Image-Turbo to the
    byte. Below, widths and depths shrink with it, down to what the classes still accept.
    """
    import torch
    from diffusers import AutoencoderKLFlux2, ErnieImageTransformer2DModel
    from transformers import Ministral3Config, Ministral3ForCausalLM, Mistral3Config, Mistral3Model

    text, vision = Ministral3Config(**_text(scale)), {"model_type": "pixtral", **_vision(scale)}
    with torch.device("meta"):
        return {
            "transformer": ErnieImageTransformer2DModel(**_transformer(scale), text_in_dim=text.hidden_size),
            "text_encoder": Mistral3Model(Mistral3Config(text_config=text, vision_config=vision)),
            "pe": Ministral3ForCausalLM(Ministral3Config(**_text(scale))),
            "vae": AutoencoderKLFlux2(**_vae(scale)),
        }


def others(scale: float) -> dict[str, Any]:
    """The components without weights, by name: the scheduler and both tokenizers."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    words = _text(scale)["vocab_size"]
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "tokenizer": tokenizer(words, longest=CONTEXT),
        "pe_tokenizer": tokenizer(words, longest=ENHANCED, chat=True),
    }


def _transformer(scale: float) -> dict[str, Any]:
    heads = max(1, round(32 * scale))
    return {
        "hidden_size": heads * HEAD,
        "num_attention_heads": heads,
        "num_layers": max(2, round(36 * scale)),
        "ffn_hidden_size": 3 * heads * HEAD,
        "in_channels": 128,
        "out_channels": 128,
        "rope_axes_dim": (32, 48, 48),
        "rope_theta": 256,
    }


def _text(scale: float) -> dict[str, Any]:
    heads = max(1, round(32 * scale))
    hidden = _multiple(3072 * scale, HEAD)
    return {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        # the pipeline takes the last hidden state but one
        "num_hidden_layers": max(2, round(26 * scale)),
        "num_attention_heads": heads,
        # 8 at full size; each serves the same number of heads
        "num_key_value_heads": max(n for n in range(1, max(1, heads // 4) + 1) if heads % n == 0),
        "head_dim": HEAD,
        "vocab_size": max(4096, round(131072 * scale)),
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def _vision(scale: float) -> dict[str, Any]:
    """The tower that Mistral3Config has by default, shrunken; the pipeline loads it and never calls it."""
    heads = max(1, round(16 * scale))
    return {
        "hidden_size": 64 * heads,
        "intermediate_size": 256 * heads,
        "num_hidden_layers": max(1, round(24 * scale)),
        "num_attention_heads": heads,
        "image_size": 1540,
        "patch_size": 14,
    }


def _vae(scale: float) -> dict[str, Any]:
    """The class's defaults, with narrower blocks; the 32 latent channels stay."""
    return {"block_out_channels": tuple(_multiple(width * scale, GROUP) for width in (128, 256, 512, 512))}


def _multiple(wanted: float, of: int) -> int:
    return max(1, round(wanted / of)) * of
