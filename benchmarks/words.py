"""What the text rung sees in posters with known words, and what LPIPS and SSIM see in the same pairs.

    python benchmarks/words.py
    python benchmarks/words.py --pairs 20        # fewer pairs in which nothing but noise and scale differs

Three parts: the pairs that it must tell apart and those it must not; its false alarms; and its times, at the
threads that OMP_NUM_THREADS allows. Nothing of the user's cache of read texts is used.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import tqdm.auto

from ernie_qa.errors import UnavailableError
from ernie_qa.fidelity.metrics import lpips, ssim

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.posters import SIZES, Line, noisy, poster, rescaled
from tests.reading import POSTERS, failed, pairs, told

if TYPE_CHECKING:
    from ernie_qa.fidelity.metrics import Pixels

TEXTS = {
    "sans": ("Fleet Overview", "Vehicles", "On time", "94.2%", "1,284 L", "IT'S RAINING AGAIN!", "Fig. 1"),
    "serif": ("Morning Loaf Bakery", "Sourdough loaf $6.50", "Plate XIV", "Digitalis purpurea", "Old Town"),
    "cyrillic": ("ОСЕННИЙ ДЖАЗ", "12 ОКТЯБРЯ", "Дом культуры", "Начало в 19:00", "ЯРМАРКА", "МУЗЫКА ЗИМЫ"),
    "chinese": ("春天的花园", "开放时间 上午九点", "免费入场", "城市音乐会", "今日特价 38 元"),
}
VARIANTS = 4
"""Changed pictures of every poster."""


def table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; the last is open."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def must_show() -> None:
    """Every pair, with what was read, and LPIPS and SSIM of the same two pictures."""
    rows = [("script", "size", "pair", "expected", "told", "CER rise", "LPIPS", "SSIM", "what was read")]
    found = [pair for script in POSTERS for pair in pairs(script)]
    for pair in tqdm.auto.tqdm(found, "pairs", disable=None, leave=False):
        checks = told(pair.texts, pair.bf16, pair.candidate)
        (near,) = lpips.score([pair.bf16], [pair.candidate], "cpu")
        (like,) = ssim.score([pair.bf16], [pair.candidate], "cpu")
        height, width = pair.bf16.shape[:2]
        rise, message = checks["text.cer_rise_mean"].measured, checks["text.cer"].message
        rows.append(
            (
                pair.script,
                f"{width}x{height}",
                pair.name,
                "caught" if pair.caught else "passed",
                ("caught" if failed(checks) else "passed")
                + ("" if failed(checks) is pair.caught else " (!)"),
                f"{rise:.3f}",
                f"{near:.4f}",
                f"{like:.4f}",
                message.partition('"')[1] + message.partition('"')[2],
            )
        )
    table(rows)


def unchanged(count: int) -> Iterator[tuple[str, tuple[str, ...], Pixels, Pixels]]:
    """What was done, the texts, and two pictures that differ by light noise and by their scale alone."""
    import numpy as np

    for at in range(count):
        number = at // VARIANTS
        random = np.random.default_rng(number)
        kind = tuple(TEXTS)[number % len(TEXTS)]
        width, height = SIZES[number // len(TEXTS) % len(SIZES)]
        font = {"cyrillic": ("sans", "serif")[number // len(TEXTS) % 2]}.get(kind, kind)
        lines = tuple(
            Line(str(text), int(random.integers(24, 73)), font)
            for text in random.choice(TEXTS[kind], 4, replace=False)
        )
        bf16 = poster((width, height), lines, number).pixels
        random = np.random.default_rng(1000 + at)
        factor, sigma = random.uniform(0.9, 1.1), random.uniform(1, 3)
        did = f"poster {number}, {kind}, {width}x{height}: scale {factor:.3f}, noise {sigma:.2f}"
        changed = noisy(rescaled(bf16, factor), sigma, at)
        yield did, tuple(line.text for line in lines), bf16, changed


def false_alarms(count: int) -> None:
    """How many of those pairs the rung fails, and what it read in them."""
    alarms = []
    for did, texts, bf16, changed in tqdm.auto.tqdm(
        unchanged(count), "unchanged", total=count, disable=None, leave=False
    ):
        checks = told(texts, bf16, changed)
        if set(checks) == {"text.cer"} or failed(checks):
            alarms.append(f"{did}: {checks['text.cer'].message}")
    print(f"false alarms: {len(alarms)} of {count}")
    print(*alarms, sep="\n", end="\n" if alarms else "")


def load() -> float:
    """Seconds until both engines have read their first line."""
    import numpy as np

    from ernie_qa.fidelity.text.engines import engine_for

    began = perf_counter()
    for text in ("A", "Я"):
        engine_for(text).read([np.full((48, 96, 3), 255, np.uint8)])
    return perf_counter() - began


def times() -> None:
    """Seconds a 1024 x 1024 picture with four lines, read by both engines, and from the cache."""
    from ernie_qa.fidelity.text.engines import engine_for
    from ernie_qa.fidelity.text.reading import read, reader

    by = reader((engine_for("A"), engine_for("Я")))
    lines = (Line("ОСЕННИЙ ДЖАЗ", 88), Line("12 ОКТЯБРЯ", 56), Line("Fleet Overview", 48), Line("94.2%", 32))
    pictures = [poster((1024, 1024), lines, seed).pixels for seed in range(5)]
    for title in ("cold", "from the cache"):
        spent = []
        for picture in pictures:
            began = perf_counter()
            read(picture, by)
            spent.append(perf_counter() - began)
        print(
            f"1024x1024, {title}: {sorted(spent)[len(spent) // 2]:.4f} s a picture "
            f"({min(spent):.4f} to {max(spent):.4f}, {len(spent)} pictures)"
        )


def main() -> None:
    """The three parts, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", type=int, default=100, help="pairs that differ by noise and scale alone")
    count = parser.parse_args().pairs

    threads = os.environ.get("OMP_NUM_THREADS", "as the system gives them")
    with tempfile.TemporaryDirectory() as cache:
        # before the cache moves: LPIPS's weights are in the one that is there
        lpips.score(*([poster((64, 64), (), 0).pixels],) * 2, "cpu")
        os.environ["ERNIE_QA_CACHE"] = cache
        try:
            began = load()
        except (UnavailableError, FileNotFoundError) as missing:
            raise SystemExit(str(missing)) from None
        must_show()
        print()
        false_alarms(count)
        print(f"\n{os.cpu_count()} cores, OMP_NUM_THREADS {threads}")
        print(f"both engines load, and read a first line, in {began:.2f} s")
        times()


if __name__ == "__main__":
    main()
