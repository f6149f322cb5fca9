"""Posters by the thousand: rendered by all processors, seeded, grouped by size."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from miniature.posters import FORMATS, Poster, draw_poster, training_poster

Size = tuple[int, int]
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Posters:
    """Posters of one size: what they say, and uint8 pictures [count, height, width, 3]."""

    posters: list[Poster]
    pictures: np.ndarray


def _chunk(task: tuple[Size, int]) -> Posters:
    size, seed = task
    rng = random.Random(seed)
    posters = [training_poster(rng, size) for _ in range(_CHUNK)]
    return Posters(posters, np.stack([draw_poster(poster, rng) for poster in posters]))


def training_posters(count: int, seed: int) -> dict[Size, Posters]:
    """`count` training posters, a quarter of each size; the same for the same seed on any machine."""
    chunks = count // (_CHUNK * len(FORMATS))
    tasks = [
        (size, seed * 1_000_003 + number * len(FORMATS) + place)
        for place, size in enumerate(FORMATS)
        for number in range(chunks)
    ]
    with ProcessPoolExecutor() as pool:
        done: Iterator[Posters] = pool.map(_chunk, tasks)
        by_size = {}
        for size in FORMATS:
            parts = list(islice(done, chunks))
            by_size[size] = Posters(
                [poster for part in parts for poster in part.posters],
                np.concatenate([part.pictures for part in parts]),
            )
    return by_size
