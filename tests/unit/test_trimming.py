import torch

from ernie_qa.capsules.trimming import middle, size, trimmed


def tape() -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {"ids/tokenizer/one": torch.arange(3)}
    for case in ("one", "two"):
        found[f"{case}/scheduler/sigmas"] = torch.zeros(8)
        found[f"{case}/vae/latents"] = torch.zeros(1, 4, 8, 8)
        found |= {f"{case}/transformer/{at}/hidden_states": torch.zeros(64) for at in range(8)}
        for name in (case, f"published/{case}"):
            found[f"{name}/vae/decoded"] = torch.zeros(1, 3, 300, 400)
            found |= {f"{name}/transformer/{at}/prediction": torch.zeros(64) for at in range(8)}
        found[f"published/{case}/calls/vae"] = torch.tensor(1)
    found["pe/one/logits"] = found["published/pe/one/logits"] = torch.arange(2000.0).reshape(40, 50)
    found["layers/pe/x/shape"] = torch.tensor([1, 40, 100])
    for name in ("layers/pe/x/rows", "layers/pe/x/outputs", "published/layers/pe/x/outputs"):
        found[name] = torch.arange(1600.0).reshape(16, 100)
    return found


def test_what_is_small_enough_stays_whole() -> None:
    whole = tape()
    found, left_out = trimmed(whole, size(whole))
    assert (found, left_out) == (whole, ())


def test_tokens_and_pixels_go_first() -> None:
    whole = tape()
    found, left_out = trimmed(whole, size(whole) - 1)
    assert left_out == ("all but 16 tokens of the prompt enhancer",)
    # the last ones, for those are what `logits_to_keep` gives
    assert found["pe/one/logits"].equal(whole["pe/one/logits"][-16:])
    found, left_out = trimmed(whole, size(found) - 1)
    assert len(left_out) == 2
    assert found["published/two/vae/decoded"].shape == (1, 3, 256, 256)
    assert size(found) < size(whole)


def test_nothing_is_left_out_unsaid_down_to_one_case() -> None:
    found, left_out = trimmed(tape(), 0)
    assert left_out[-3:] == (
        "all but the first, a middle and the last call of the transformer in one",
        "all but one row of a layer",
        "the case two",
    )
    assert not [name for name in found if "two" in name]
    assert {name for name in found if name.startswith("published/one/transformer")} == {
        f"published/one/transformer/{at}/prediction" for at in (0, 4, 7)
    }
    assert found["layers/pe/x/rows"].shape == found["published/layers/pe/x/outputs"].shape == (1, 100)
    assert found["layers/pe/x/shape"].tolist() == [1, 40, 100]
    # what was fed to a layer and what it gave are still the same row, and not the first
    assert float(found["layers/pe/x/rows"][0, 0]) > 0
    assert found["published/layers/pe/x/outputs"].equal(found["layers/pe/x/rows"])
    # of BF16's own outputs, which no check needs, nothing is left
    assert not {"layers/pe/x/outputs", "pe/one/logits", "one/vae/decoded"} & set(found)
    assert {"one/scheduler/sigmas", "one/vae/latents", "ids/tokenizer/one"} <= set(found)


def test_what_no_check_needs_goes_before_steps_and_rows() -> None:
    _, left_out = trimmed(tape(), 0)
    order = [
        next(at for at, said in enumerate(left_out) if word in said) for word in ("parts", "rows", "call")
    ]
    assert order == sorted(order)


def test_the_middle_of_a_picture() -> None:
    picture = torch.arange(24).reshape(1, 4, 6)
    assert middle(picture, 2, 2).tolist() == [[[8, 9], [14, 15]]]
    assert middle(picture, 9, 9).equal(picture)
