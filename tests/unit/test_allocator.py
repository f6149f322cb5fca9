import pytest

from ernie_qa.allocator import runaway

BOTH = "expandable_segments:True,max_split_size_mb:128"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize(
    "value",
    [
        BOTH,
        "max_split_size_mb:128,expandable_segments:True",
        " expandable_segments : True ,\tmax_split_size_mb : 128 ",
        "EXPANDABLE_SEGMENTS:true,max_split_size_mb:21",
        f"garbage_collection_threshold:0.8,{BOTH},roundup_power2_divisions:[256:1,512:2,>:8]",
        f"expandable_segments:False,{BOTH}",
    ],
)
def test_the_two_together_run_away(name: str, value: str) -> None:
    reason = runaway({name: value, "HOME": "/nowhere"})
    assert reason is not None
    assert reason.startswith(f"{name}={value}: remove one of ")
    assert "123548" in reason


def test_both_variables_are_named_where_it_takes_both() -> None:
    growing, split = BOTH.split(",")
    reason = runaway({"PYTORCH_ALLOC_CONF": split, "PYTORCH_CUDA_ALLOC_CONF": growing})
    assert reason is not None
    assert reason.startswith(f"PYTORCH_ALLOC_CONF={split} PYTORCH_CUDA_ALLOC_CONF={growing}: ")


def test_a_variable_that_has_no_part_in_it_is_not_named() -> None:
    reason = runaway({"PYTORCH_ALLOC_CONF": BOTH, "PYTORCH_CUDA_ALLOC_CONF": "backend:native"})
    assert reason is not None
    assert "backend" not in reason


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        "expandable_segments:True",
        "max_split_size_mb:128",
        "expandable_segments:False,max_split_size_mb:128",
        f"{BOTH},expandable_segments:False",
        "garbage_collection_threshold:0.8,max_split_size_mb:128",
        "expandable_segments:True,max_non_split_rounding_mb:128",
    ],
)
def test_either_alone_does_not(value: str) -> None:
    assert runaway({"PYTORCH_CUDA_ALLOC_CONF": value}) is None
    assert runaway({"PYTORCH_ALLOC_CONF": value}) is None


def test_nothing_set() -> None:
    assert runaway({}) is None
