"""The page as a reader meets it: opened from disk, narrow and wide, light and dark, by keyboard alone."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Opened = Callable[..., Any]
WIDE, NARROW = (1280, 900), (360, 740)


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    """`opened(size, **context)`: the page in a window; every message and request must be as it should."""
    contexts, told, requests = [], [], []

    def open_(size: tuple[int, int] = WIDE, **context: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": size[0], "height": size[1]}, **context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert told == []
    assert requests
    assert all(url.startswith((page_file.parent.as_uri(), "data:")) for url in requests)


def test_every_picture_loads_and_the_verdict_is_first(opened: Opened) -> None:
    page = opened()
    assert "fail" in page.locator("h1").inner_text()
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate("for (const one of document.images) one.loading = 'eager'")
    # wait_for_function evaluates a string again where it has to wait, and the page's policy forbids that
    page.evaluate("Promise.all([...document.querySelectorAll('.row img')].map((one) => one.decode()))")
    widths = page.evaluate("[...document.querySelectorAll('.row img')].map((one) => one.naturalWidth)")
    assert set(widths) == {64}
    assert page.locator(".row img").count() == 2 + 2 * 2 * 3


def test_html_in_a_prompt_or_a_waiver_is_text(opened: Opened) -> None:
    page = opened()
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src=x]").count() == 0
    page.locator(".prompt summary").first.click()
    assert "<script>window.ran = 1</script>" in page.locator(".prompt p").first.inner_text()
    assert "<script>window.ran = 1</script>" in page.locator(".arm .why").first.inner_text()


def test_a_script_that_got_in_would_not_run(opened: Opened, browser: Any, page_file: Path) -> None:
    edited = page_file.with_name("edited.html")
    edited.write_text(page_file.read_text().replace("<header>", "<script>window.ran = 1</script><header>"))
    context = browser.new_context()
    page = context.new_page()
    page.goto(edited.as_uri())
    assert page.evaluate("window.ran") is None
    context.close()
    opened()


@pytest.mark.parametrize("size", [WIDE, NARROW, (320, 600)], ids=str)
def test_nothing_reaches_beyond_the_window(opened: Opened, size: tuple[int, int]) -> None:
    page = opened(size)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


def test_a_table_that_goes_on_beyond_its_frame_shows_it(opened: Opened) -> None:
    def shades(table: Any) -> list[int]:
        """The brightness of the frame's left edge, its middle and its right edge."""
        with Image.open(io.BytesIO(table.screenshot())) as image:
            light = np.asarray(image.convert("L"))
        return [int(np.median(light[:, at])) for at in (2, light.shape[1] // 2, -3)]

    fits = opened(WIDE).locator(".scroll").first
    assert len(set(shades(fits))) == 1
    cut = opened((240, 600)).locator(".scroll").first
    left, middle, right = shades(cut)
    assert right < middle == left
    cut.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
    left, middle, right = shades(cut)
    assert left < middle == right


def test_what_the_rungs_ended_as_stands_in_line(opened: Opened) -> None:
    badges = opened().locator(".arm").last.locator(".ladder > li summary .badge")
    assert badges.count() > 3
    assert len({badges.nth(at).bounding_box()["x"] for at in range(badges.count())}) == 1


def test_dark_and_light_are_readable(opened: Opened) -> None:
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        dim = page.evaluate(CONTRAST)
        assert dim == [], scheme


def test_the_slider_wipes_by_keyboard_alone(opened: Opened) -> None:
    page = opened()
    button = page.locator(".open:visible").first
    button.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.activeElement.id") == "wipe"
    before = page.locator("#left-layer").evaluate("one => one.style.clipPath")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    after = page.locator("#left-layer").evaluate("one => one.style.clipPath")
    assert (before, after) == ("inset(0px 50% 0px 0px)", "inset(0px 60% 0px 0px)")
    assert page.locator("#wipe").get_attribute("aria-valuetext") == "40 % BF16"
    width = page.locator("#layers").evaluate("one => one.clientWidth")
    page.keyboard.press("+")
    assert page.locator("#layers").evaluate("one => one.clientWidth") == pytest.approx(2 * width, abs=2)
    assert page.locator("#zoom").inner_text() == "2×"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert button.evaluate("one => one === document.activeElement")


def test_the_map_is_shown_and_the_next_case_follows(opened: Opened) -> None:
    page = opened(NARROW)
    page.locator(".view[data-kind=map]:visible").first.click()
    assert page.locator("#map-layer").is_visible()
    assert page.locator("#wipe").is_disabled()
    first = page.locator("#viewer-title").inner_text()
    page.locator("#next").click()
    assert page.locator("#viewer-title").inner_text() != first
    page.locator("#show-map").uncheck()
    assert not page.locator("#map-layer").is_visible()


def test_who_wants_no_motion_gets_none(opened: Opened) -> None:
    scroll = "getComputedStyle(document.documentElement).scrollBehavior"
    assert opened(reduced_motion="reduce").evaluate(scroll) == "auto"
    assert opened().evaluate(scroll) == "smooth"


def test_without_scripts_everything_can_be_read(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    link = page.locator(".view:visible").first
    assert link.get_attribute("href").startswith("_pictures/")
    assert page.locator(".open:visible").count() == 0
    context.close()


CONTRAST = """() => {
  const levels = (color) => color.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = (color) => levels(color).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll('body *')]
    .filter((one) => one.checkVisibility())
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((one) => !one.closest('button') && !(one instanceof SVGElement) && one.tagName !== 'SCRIPT')
    .map((one) => {
      const own = light(getComputedStyle(one).color);
      const ratio = (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
      return [one.tagName + '.' + one.className, ratio];
    })
    .filter(([, ratio]) => ratio < 4.5);
}"""
"""Texts whose contrast with the ground is below WCAG 2.2's 4.5 (AA), with the ratio."""
