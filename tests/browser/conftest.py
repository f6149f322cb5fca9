"""A real headless Chromium on pages about real records."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ernie_qa.execute import Session
from ernie_qa.plan import plan
from ernie_qa.report.page import write_page
from ernie_qa.report.shown import of_session
from ernie_qa.suite import find_suite

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>&amp;"


@pytest.fixture(scope="session")
def session(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    small_suite: Path,
    write_recipe: Callable[[str, float], Path],
) -> Session:
    """BF16, a recipe that passes and one that fails, drawn from prompts that are HTML."""
    suite = tmp_path_factory.mktemp("suites") / "hostile.toml"
    text = small_suite.read_text(encoding="utf-8").replace('prompt = "', f'prompt = "{HOSTILE} ')
    suite.write_text(text, encoding="utf-8")
    recipes = [write_recipe("lenient", 1.0), write_recipe("strict", 1e-12)]
    waiver = f"""
[[gates.hostile.waivers]]
check = "images.ssim_mean"
reason = "{HOSTILE}"
until = 2999-12-31
"""
    for path in recipes:
        path.write_text(path.read_text().replace("gates.small.", "gates.hostile.") + waiver)
    run = Session(plan(tiny_model, ["bf16", *recipes], suite))
    assert [outcome.verdict.status for outcome in run] == ["pass", "pass", "fail"]
    return run


@pytest.fixture(scope="session")
def page_file(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about that session."""
    shown = of_session(session)
    return write_page(tmp_path_factory.mktemp("page"), shown, suite=find_suite(session.plan.suite))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The Chromium of this machine."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        # a container's root may not use Chromium's sandbox
        running = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()
