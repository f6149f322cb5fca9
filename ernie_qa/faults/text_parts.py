"""The text encoder, the tokenizers and the prompt enhancer, damaged."""

from __future__ import annotations

from typing import Any

from ernie_qa.faults import INT8, NF4, UINT4, fault


@fault("noise in the text encoder's embedding", rung="package", component="text_encoder", recipe=UINT4)
def noisy_embedding(pipe: Any) -> None:
    import torch

    table = pipe.text_encoder.language_model.embed_tokens.weight
    drawn = torch.Generator().manual_seed(1)
    table.add_(0.2 * table.std() * torch.randn(table.shape, generator=drawn).to(table.dtype))


@fault("hidden states of another layer", rung="package", component="text_encoder", recipe=NF4)
def other_layer(pipe: Any) -> None:
    layers = pipe.text_encoder.language_model.layers
    layers[2], layers[1] = layers[1], layers[2]


@fault("the text encoder looks at later words", rung="components", component="text_encoder", recipe=INT8)
def not_causal(pipe: Any) -> None:
    for layer in pipe.text_encoder.language_model.layers:
        layer.self_attn.is_causal = False


@fault("text states 3 % too strong", rung="components", component="text_encoder", recipe=INT8)
def strong_states(pipe: Any) -> None:
    def stronger(_: Any, fed: Any, given: Any) -> Any:
        given.hidden_states = tuple(states * 1.03 for states in given.hidden_states)
        return given

    pipe.text_encoder.register_forward_hook(stronger)


@fault("two words of the tokenizer exchanged", rung="package", component="tokenizer", recipe=UINT4)
def words_exchanged(pipe: Any) -> None:
    import json

    from tokenizers import Tokenizer

    rules = json.loads(pipe.tokenizer.backend_tokenizer.to_str())
    words = rules["model"]["vocab"]
    one, other = sorted(words)[-2:] if isinstance(words, dict) else (-2, -1)
    words[one], words[other] = words[other], words[one]
    pipe.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(rules))


@fault("a word added to the tokenizer", rung="package", component="tokenizer", recipe=NF4)
def word_added(pipe: Any) -> None:
    pipe.tokenizer.add_tokens(["poster"])


@fault("the prompt enhancer's template cut", rung="package", component="pe_tokenizer", recipe=INT8)
def other_template(pipe: Any) -> None:
    pipe.pe_tokenizer.chat_template = (pipe.pe_tokenizer.chat_template or "{{ messages }}") + " "


@fault("no beginning of the text", rung="components", component="tokenizer", recipe=INT8)
def no_beginning(pipe: Any) -> None:
    original: Any = type(pipe.tokenizer)

    def call(self: Any, *args: Any, **options: Any) -> Any:
        return original.__call__(self, *args, **{**options, "add_special_tokens": False})

    pipe.tokenizer.__class__ = type(original.__name__, (original,), {"__call__": call})


@fault("one layer of the prompt enhancer skipped", rung="components", component="pe", recipe=UINT4)
def layer_skipped(pipe: Any) -> None:
    pipe.pe.model.layers[1].forward = lambda states, *args, **options: states


@fault("the prompt enhancer's norm doubled", rung="package", component="pe", recipe=NF4)
def norm_doubled(pipe: Any) -> None:
    pipe.pe.model.layers[0].input_layernorm.weight.mul_(2.0)


@fault("the prompt enhancer's rotary base changed", rung="components", component="pe", recipe=INT8)
def other_rotation(pipe: Any) -> None:
    pipe.pe.model.rotary_emb.inv_freq.mul_(1.1)


@fault("no prompt enhancer", rung="package", component="pe", recipe=UINT4)
def no_enhancer(pipe: Any) -> None:
    pipe.pe = None
