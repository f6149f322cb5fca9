import pytest

from ernie_qa.gpus import within


@pytest.mark.parametrize(
    ("setting", "present", "found"),
    [
        (None, 3, ("0", "1", "2")),
        (None, 0, ()),
        ("", 2, ()),
        ("-1", 2, ()),
        ("3,1", 4, ("3", "1")),
        # what CUDA does not know hides what follows
        ("1,5,0", 2, ("1",)),
        ("1,-1,0", 2, ("1",)),
        (" 01 , 0", 2, ("1", "0")),
        ("0,0,1", 2, ("0", "1")),
        ("GPU-8932f937,MIG-GPU-8932f937/1/0", 0, ("GPU-8932f937", "MIG-GPU-8932f937/1/0")),
    ],
)
def test_what_a_setting_makes_visible(setting: str | None, present: int, found: tuple[str, ...]) -> None:
    assert within(setting, present) == found
