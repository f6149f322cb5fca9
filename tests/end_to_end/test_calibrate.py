"""Calibrating the miniature: one change moves it, one does not, and a record of elsewhere is compared."""

from pathlib import Path

import pytest

from ernie_qa.baseline.noise import find_noise
from ernie_qa.cli import main


def test_two_changes_and_a_record_of_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["calibrate", "mini", "--device", "cpu", "--cases", "2", "--teacher-cases", "1"]
    root, there = tmp_path / "baselines", tmp_path / "there"
    assert main([*base, "--baselines", str(root), "--change", "again", "math-attention"]) == 0
    text = capsys.readouterr().out
    assert "again           deterministic" in text
    assert "commit it" in text
    noise = find_noise(root, "mini", "cpu", "mini")
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
    noise = find_noise(root, "mini", "cpu", "mini")
    assert noise is not None
    assert set(noise.changes) == {"again", "math-attention", "against-there"}
    assert noise.changes["against-there"].deterministic
