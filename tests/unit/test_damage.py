"""benchmarks/damage.py: which recipes it measures."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import damage
from ernie_qa.recipe import find_recipe


def test_a_recipe_is_given_by_its_file_or_its_name(write_recipe: Callable[[str, float], Path]) -> None:
    file = write_recipe("mine", 0.25)
    assert [one.name for one in damage.chosen([str(file), "sdnq-int8"])] == ["mine", "sdnq-int8"]
    assert [one.name for one in damage.chosen([])][-2:] == ["sdnq-uint3-static", "sdnq-uint2-static"]


def test_what_is_no_recipe_is_told_before_anything_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        damage.main(["--recipe", "sdnq-int9"])
    assert 'did you mean "sdnq-int8"?' in capsys.readouterr().err


def test_limits_for_the_miniature_are_shown_as_far_as_there_are_any(
    write_recipe: Callable[[str, float], Path],
) -> None:
    file = write_recipe("mine", 0.25)
    assert damage.limit_row(find_recipe(file)) == ""
    file.write_text(file.read_text(encoding="utf-8").replace("gates.small", "gates.mini"), encoding="utf-8")
    assert damage.limit_row(find_recipe(file)).split() == ["limit:", "mine", "0.25000", "-", "-", "-"]
