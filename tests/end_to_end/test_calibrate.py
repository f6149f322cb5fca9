"""Calibrating the miniature: one change moves it, one does not, and a record of elsewhere is compared."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_qa.baseline.noise import Noise, find_noise, verify_noise
from ernie_qa.calibration import calibrate, chosen, subject
from ernie_qa.changes import Change, anywhere, changes
from ernie_qa.cli import main


def test_two_changes_and_a_record_of_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["calibrate", "mini", "--device", "cpu", "--cases", "2", "--teacher-cases", "1"]
    root, there = tmp_path / "baselines", tmp_path / "there"

    def floor() -> Noise | None:
        # of two cases: the gate, which goes by a whole suite, does not look there
        assert find_noise(root, "mini", "cpu", "mini") is None
        ((_, found),) = verify_noise(root)
        return found

    assert main([*base, "--baselines", str(root), "--change", "again", "math-attention"]) == 0
    text = capsys.readouterr().out
    assert "again           deterministic" in text
    assert "commit it" in text
    noise = floor()
    assert noise is not None
    assert set(noise.changes) == {"again", "math-attention"}
    again, math = noise.changes["again"], noise.changes["math-attention"]
    assert (again.deterministic, again.same, again.cases, again.teacher_cases) == (True, 2, 2, 1)
    assert not math.deterministic
    assert 0 < math.figures["images.lpips_mean"] < 0.001
    assert 0 < math.figures["components.transformer_l2_max"] < 0.05
    # another seed is far beyond what any change does
    for figure in ("images.lpips_mean", "components.transformer_l2_mean", "components.vae_l2"):
        assert noise.ceiling[figure] > 10 * math.figures[figure]
    assert "components.text_encoder_l2_mean" not in noise.ceiling

    assert main([*base, "--record", str(there)]) == 0
    assert main([*base, "--record", str(there)]) == 2
    assert main([*base, "--baselines", str(root), "--against", str(there)]) == 0
    noise = floor()
    assert noise is not None
    assert set(noise.changes) == {"again", "math-attention", "against-there"}
    assert noise.changes["against-there"].deterministic


def test_a_named_change_that_breaks_off_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(pipe: object) -> Iterator[None]:
        raise RuntimeError("no kernel")
        yield

    known = changes()
    broken = Change("broken", "a test", anywhere, lasting=breaks)
    monkeypatch.setattr("ernie_qa.calibration.changes", lambda: (*known, broken))
    base = ["calibrate", "mini", "--device", "cpu", "--cases", "1", "--teacher-cases", "0"]
    command = [*base, "--baselines", str(tmp_path), "--change", "again", "broken"]
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "not measured: broken: broke off: RuntimeError: no kernel" in text
    assert "measured in 1 of 10 cases" in text


def test_progress_counts_pictures_here_and_in_another_process() -> None:
    of = subject("mini", None, "cpu", cases=2, teacher_cases=1)
    seen: list[tuple[str, int, int]] = []
    wanted = [*chosen(["again"]), Change("elsewhere", "a test", anywhere, environment=dict)]
    calibrate(of, wanted, progress=lambda *step: seen.append(step))
    # BF16, another seed and a change: two pictures and a case fed to the parts; what another process drew is
    # fed to them here as well
    assert [(name, done) for name, done, _ in seen] == [
        *(("bf16", done) for done in range(4)),
        *(("other-seeds", done) for done in range(3, 7)),
        *(("again", done) for done in range(6, 10)),
        *(("elsewhere", done) for done in range(9, 14)),
    ]
    assert {of_all for _, _, of_all in seen} == {13}
