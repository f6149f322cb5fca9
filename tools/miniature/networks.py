"""The miniature's components, untrained: the classes of diffusers and transformers themselves, small."""

from __future__ import annotations

import json
import random
from typing import Any

from miniature.posters import Poster, training_poster

HIDDEN = 128  # of the text encoder and the prompt enhancer
VOCABULARY = 640  # rows of the embeddings: the tokenizer's entries, rounded up
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    # as many as query heads: projections of 128 × 128 hold 16,384 weights, the fewest that SDNQ quantizes
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 256,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}[SYSTEM]{{ message['content'] }}"
    "{% else %}[INST]{{ message['content'] }}[/INST]Output:{% endif %}{% endfor %}"
)


def user_message(poster: Poster) -> str:
    """What `ErnieImagePipeline` hands to the prompt enhancer for the poster's request."""
    return json.dumps(
        {"prompt": poster.request, "width": poster.width, "height": poster.height}, ensure_ascii=False
    )


def tokenizer() -> Any:
    """A byte-level BPE tokenizer trained on captions and requests; ids 0 to 2 are padding, start and end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(0)
    posters = [training_poster(rng) for _ in range(4000)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [text for poster in posters for text in (poster.caption, user_message(poster))],
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=256,
        chat_template=CHAT_TEMPLATE,
    )


def text_encoder() -> Any:
    """`Mistral3Model` with the text model that is used and a vision tower that, as at full size, is not."""
    from transformers import Mistral3Config, Mistral3Model, PixtralVisionConfig
    from transformers.models.ministral3 import Ministral3Config

    vision = PixtralVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    return Mistral3Model(
        Mistral3Config(
            text_config=Ministral3Config(vocab_size=VOCABULARY, **TEXT),
            vision_config=vision,
            image_token_index=VOCABULARY - 1,
            spatial_merge_size=2,
        )
    )


def prompt_enhancer() -> Any:
    """`Ministral3ForCausalLM` of the text encoder's own shape."""
    from transformers import Ministral3ForCausalLM
    from transformers.models.ministral3 import Ministral3Config

    return Ministral3ForCausalLM(
        Ministral3Config(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, **TEXT)
    )


def vae() -> Any:
    """`AutoencoderKLFlux2`: a quarter each way, 16 channels, 64 after the pipeline's 2 × 2 patches."""
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        sample_size=128,
        batch_norm_eps=1e-5,
    )


def transformer() -> Any:
    """`ErnieImageTransformer2DModel`, hidden 256, eight layers."""
    from diffusers import ErnieImageTransformer2DModel

    return ErnieImageTransformer2DModel(
        hidden_size=256,
        num_attention_heads=8,
        num_layers=8,
        ffn_hidden_size=768,
        in_channels=64,
        out_channels=64,
        text_in_dim=HIDDEN,
        rope_theta=256,
        rope_axes_dim=(8, 12, 12),
    )


def scheduler() -> Any:
    """Flow matching with the shift of 3 that training samples its noise levels with."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0)
