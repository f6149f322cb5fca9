"""What a run leaves for people: the page and the verdict in Markdown, beside its records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_qa.report.files import filling, save, write_whole
from ernie_qa.report.page import PAGE, write_page
from ernie_qa.report.shown import Shown, of_session
from ernie_qa.report.summary import FILE, append_summary, markdown

if TYPE_CHECKING:
    from ernie_qa.execute import Session


def write_report(directory: Path, session: Session) -> Path:
    """Write the records, verdict.json, verdict.md and index.html of a session, all or nothing; the page."""
    shown = of_session(session)
    with filling(directory) as new:
        save(new, session)
        write_whole(new / FILE, markdown(shown, session.broken, session.unfinished))
        write_page(
            new,
            shown,
            suite=session.plan.suite,
            broken=session.broken,
            unfinished=session.unfinished,
        )
    return directory / PAGE


def write_page_alone(directory: Path, shown: Sequence[Shown], **options: Any) -> Path:
    """Write index.html and its pictures as `write_page`, all or nothing; the page."""
    with filling(directory) as new:
        write_page(new, shown, **options)
    return directory / PAGE


def summarize(session: Session) -> None:
    """Append the verdict to GitHub's summary of this step, where there is one."""
    append_summary(markdown(of_session(session), session.broken, session.unfinished))
