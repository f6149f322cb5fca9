"""A tokenizer that nobody trained: the pieces of the shipped prompts, and words to fill the vocabulary."""

from __future__ import annotations

from typing import Any

from ernie_qa.suite import find_suite

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
UNKNOWN, BOS, EOS, PAD = range(4)
"""The ids of the special tokens."""
SUITES = ("mini", "turbo10")
"""Whose pieces have ids of their own. Named, so that a suite that is added later makes no other model."""
SPLIT = r"w\d{6}|\p{L}{1,4}|\p{N}{1,3}|[^\s\p{L}\p{N}]"
"""A piece is one of the filling words, up to four letters, up to three digits, or one other sign: turbo10's
prompts give about as many tokens as a trained vocabulary would."""
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}[SYSTEM]{{ message['content'] }}"
    "{% else %}[INST]{{ message['content'] }}[/INST]Output:{% endif %}{% endfor %}"
)


def tokenizer(size: int, *, longest: int, chat: bool = False) -> Any:
    """A `PreTrainedTokenizerFast` of exactly `size` words that begins every text with `<s>`.

    All of its ids decode to words that encode to the same ids again, so that what a random prompt enhancer
    samples is a prompt. `longest` is its `model_max_length`, in tokens; with `chat` it has a chat template.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    unknown, bos, eos, pad = SPECIAL
    backend = Tokenizer(WordLevel(_vocabulary(size), unk_token=unknown))
    backend.pre_tokenizer = _split()
    backend.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, BOS)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=longest,
    )
    if chat:
        fast.chat_template = CHAT
    return fast


def _vocabulary(size: int) -> dict[str, int]:
    split = _split()
    prompts = [case.prompt for name in SUITES for case in find_suite(name).cases]
    pieces = {piece for prompt in prompts for piece, _ in split.pre_tokenize_str(prompt)}
    words = [*SPECIAL, *sorted(pieces)]
    words += [f"w{index:06d}" for index in range(size - len(words))]
    return {word: index for index, word in enumerate(words)}


def _split() -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    # inverted, what matches is kept, and the white space between is what is removed
    return Split(Regex(SPLIT), behavior="removed", invert=True)
