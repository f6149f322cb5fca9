"""A parser whose errors are one line: which command, what is wrong, and what may be meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ernie_qa.cli.exit_codes import BAD_INPUT
from ernie_qa.toml_input import did_you_mean, one_line


class Parser(argparse.ArgumentParser):
    """Refuses what it does not know itself: argparse leaves that to the outermost parser, which has only the
    names of the commands to show."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """What was parsed, and nothing that is left."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            meant = did_you_mean(left[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(left)}{meant}")
        return found, left

    def error(self, message: str) -> NoReturn:
        """End with `message` and where to read more."""
        self.exit(BAD_INPUT, one_line(f"{self.prog}: {message}") + f" (see {self.prog} --help)\n")
