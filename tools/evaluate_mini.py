"""Measure the miniature on captions that training never saw, and say whether it may ship.

python tools/evaluate_mini.py ernie_qa/models/mini --sheet sheet.png --json evaluation.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> int:
    """Print what was measured; 0 where it is good enough, else 1."""
    import torch

    from miniature.evaluation import evaluate

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--captions", type=int, default=40)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sheet", type=Path, help="a picture of everything drawn")
    parser.add_argument("--json", type=Path, help="the figures")
    options = parser.parse_args()
    found = evaluate(options.model, options.device, options.captions, sheet=options.sheet)
    for name, value in found.as_dict().items():
        print(f"{name:24} {value:.4f}" if isinstance(value, float) else f"{name:24} {value}")
    print("good enough to ship:", "yes" if found.good_enough else "no")
    if options.json:
        options.json.write_text(
            json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return 0 if found.good_enough else 1


if __name__ == "__main__":
    sys.exit(main())
