"""How well the miniature does, on captions that training never saw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from miniature.posters import COLOURS, WORDS, Poster, band_rows, draw_poster, held_out_posters, word_mask
from miniature.training import enhancer_ids

READABLE = 0.7
"""Least correlation of the ink found with the ink wanted for a word to count as readable."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was asked of the miniature, and what it reached."""

    captions: int
    grounds_right: int
    words_readable: int
    word_correlation_mean: float
    words_misread: tuple[str, ...]
    vae_psnr_db: float
    vae_psnr_db_worst: float
    enhancer_top1: float
    enhancer_captions_exact: int
    seconds_a_picture: float
    device: str

    @property
    def good_enough(self) -> bool:
        """What the shipped miniature must reach."""
        return (
            self.grounds_right >= 0.95 * self.captions
            and self.words_readable >= 0.90 * self.captions
            and self.vae_psnr_db >= 28
            and self.enhancer_top1 >= 0.95
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ground_of(picture: np.ndarray, poster: Poster) -> str:
    """The palette colour nearest to the median of the pixels that must show the ground."""
    plain = (draw_poster(poster) == COLOURS[poster.ground]).all(-1)
    plain[band_rows(poster)] = False
    found = np.median(picture[plain], axis=0)
    return min(COLOURS, key=lambda name: float(np.abs(found - COLOURS[name]).sum()))


def read_word(picture: np.ndarray, poster: Poster) -> tuple[str, float]:
    """The word of the vocabulary that the band shows best, and its correlation with the ink found there.

    Ink is where a pixel lies on the way from the ground's colour to the ink's: a projection, so that
    neither colour nor contrast helps a smeared word.
    """
    rows = band_rows(poster)
    ground, ink = (np.asarray(COLOURS[name], np.float32) for name in (poster.ground, poster.ink))
    way = ink - ground
    found = ((picture[rows].astype(np.float32) - ground) @ way) / (way @ way)
    masks = {word: word_mask(word, poster.width, poster.edge, poster.height)[rows] for word in WORDS}
    scores = {word: float(np.corrcoef(found.ravel(), mask.ravel())[0, 1]) for word, mask in masks.items()}
    best = max(scores, key=lambda word: scores[word])
    return best, scores[best]


def draw(pipe: Any, poster: Poster, seed: int) -> np.ndarray:
    """One picture, uint8 [height, width, 3]: 8 steps, guidance 1.0, latents drawn on the CPU in float32."""
    factor = pipe.vae_scale_factor
    shape = (1, pipe.transformer.config.in_channels, poster.height // factor, poster.width // factor)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    image = pipe(
        poster.caption, height=poster.height, width=poster.width, num_inference_steps=8, guidance_scale=1.0,
        use_pe=False, latents=latents.to(pipe.device, pipe.transformer.dtype),
    ).images[0]  # fmt: skip
    return np.asarray(image)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB of two uint8 pictures."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


@torch.no_grad()
def _reconstruct(pipe: Any, picture: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].to(pipe.device).float() / 127.5 - 1
    drawn = pipe.vae.decode(pipe.vae.encode(x.to(pipe.vae.dtype)).latent_dist.mean).sample
    return pipe.image_processor.postprocess(drawn, output_type="np")[0].__mul__(255).round().astype(np.uint8)


@torch.no_grad()
def _enhancer(pipe: Any, posters: Sequence[Poster]) -> tuple[float, int]:
    right = total = exact = 0
    for asked, answer in enhancer_ids(pipe.pe_tokenizer, posters):
        ids = torch.tensor([asked + answer], device=pipe.device)
        guessed = pipe.pe(input_ids=ids).logits[0, len(asked) - 1 : -1].argmax(-1).tolist()
        hits = sum(a == b for a, b in zip(guessed, answer, strict=True))
        right, total, exact = right + hits, total + len(answer), exact + (hits == len(answer))
    return right / total, exact


def evaluate(
    model: Path, device: str, captions: int = 40, seed: int = 7, sheet: Path | None = None
) -> Evaluation:
    """Measure the miniature in `model`; `sheet` takes a picture of all that was drawn."""
    from diffusers import ErnieImagePipeline

    pipe = ErnieImagePipeline.from_pretrained(model, dtype=torch.bfloat16).to(device)
    pipe.set_progress_bar_config(disable=True)
    if device == "cpu":
        pipe.vae.to(memory_format=torch.channels_last)
    posters = held_out_posters(captions, seed)
    draw(pipe, posters[0], 0)
    began = time.perf_counter()
    pictures = [draw(pipe, poster, number) for number, poster in enumerate(posters)]
    seconds = (time.perf_counter() - began) / captions
    words = [read_word(picture, poster) for picture, poster in zip(pictures, posters, strict=True)]
    readable = [
        word == poster.word and score >= READABLE
        for (word, score), poster in zip(words, posters, strict=True)
    ]
    truths = [draw_poster(poster) for poster in posters]
    quality = [psnr(truth, _reconstruct(pipe, truth)) for truth in truths]
    top1, exact = _enhancer(pipe, held_out_posters(200, seed + 1))
    if sheet:
        contact_sheet(pictures).save(sheet)
    return Evaluation(
        captions=captions,
        grounds_right=sum(
            ground_of(picture, poster) == poster.ground
            for picture, poster in zip(pictures, posters, strict=True)
        ),
        words_readable=sum(readable),
        word_correlation_mean=float(np.mean([score for _, score in words])),
        words_misread=tuple(
            f"{poster.word} read as {word} at {score:.2f}"
            for (word, score), poster, good in zip(words, posters, readable, strict=True)
            if not good
        ),
        vae_psnr_db=float(np.mean(quality)),
        vae_psnr_db_worst=min(quality),
        enhancer_top1=top1,
        enhancer_captions_exact=exact,
        seconds_a_picture=seconds,
        device=torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
    )


def contact_sheet(pictures: Sequence[np.ndarray], columns: int = 8) -> Image.Image:
    """All pictures on one sheet."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * 180, rows * 156), "grey")
    for number, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (number % columns * 180, number // columns * 156))
    return sheet
