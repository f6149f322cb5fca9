"""A tiny random ERNIE-Image pipeline: the five classes of the real one, at the shape of the miniature.

Its pictures mean nothing. It serves every test that asks what is loaded and what runs, in seconds on a CPU.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Ministral3Config,
    Ministral3ForCausalLM,
    Mistral3Config,
    Mistral3Model,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
)

VOCABULARY = 512
CAPTION = (
    "A square poster with a plain red ground. A large yellow circle stands at the upper left, and a small "
    "white star stands at the lower right. The word КОНЦЕРТ is written in large black letters along the "
    "bottom of the poster."
)
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}\nOutput: "


def tiny_pipeline(*, layers: int = 1, text_layers: int = 1, seed: int = 0) -> ErnieImagePipeline:
    """A random BF16 pipeline with `layers` transformer blocks and `text_layers` in either language model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = Ministral3Config(
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=text_layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            vocab_size=VOCABULARY,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "original_max_position_embeddings": 512,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
            },
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        vision = PixtralVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
        transformer = ErnieImageTransformer2DModel(
            hidden_size=256,
            num_attention_heads=8,
            num_layers=layers,
            ffn_hidden_size=768,
            in_channels=64,
            out_channels=64,
            text_in_dim=128,
            rope_axes_dim=(8, 12, 12),
            rope_theta=256,
        )
        # the class starts these at zero, which makes the output constant
        for layer in (transformer.adaLN_modulation[-1], transformer.final_linear):
            torch.nn.init.normal_(layer.weight, std=0.02)
        vae = AutoencoderKLFlux2(
            block_out_channels=(32, 64, 96),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=16,
        )
        text_encoder = Mistral3Model(Mistral3Config(text_config=text, vision_config=vision))
        pe = Ministral3ForCausalLM(text)
    tokenizer = tiny_tokenizer()
    pipe = ErnieImagePipeline(
        transformer=transformer,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        pe=pe,
        pe_tokenizer=tiny_tokenizer(),
    )
    return pipe.to(torch.bfloat16)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the miniature's caption: any text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=256,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _corpus() -> Iterator[str]:
    # few repeats, so that the caption keeps more than the 32 tokens that SDNQ's kernels take
    yield from (CAPTION, "large small left right upper lower red green blue")


def save_tiny(directory: Path, *, layers: int = 1, text_layers: int = 1, seed: int = 0) -> Path:
    """Write such a pipeline to `directory`, a model directory with a manifest of random weights."""
    import hashlib
    import json

    tiny_pipeline(layers=layers, text_layers=text_layers, seed=seed).save_pretrained(directory)
    files = {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "schema": 1,
        "name": "tiny",
        "weights": "random",
        "suite": "mini",
        "summary": "Random weights at the miniature's shape, for tests.",
        "training": {},
        "files": files,
    }
    (directory / "ernie_qa.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return directory
