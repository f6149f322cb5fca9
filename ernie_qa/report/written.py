"""What a run leaves for people: the page and the verdict in Markdown, beside its records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ernie_qa.report.files import save, write_whole
from ernie_qa.report.page import write_page
from ernie_qa.report.shown import of_session
from ernie_qa.report.summary import FILE, append_summary, markdown

if TYPE_CHECKING:
    from ernie_qa.execute import Session


def write_report(directory: Path, session: Session) -> None:
    """Write the records, verdict.json, verdict.md and index.html of a session."""
    save(directory, session)
    shown = of_session(session)
    write_whole(directory / FILE, markdown(shown, session.broken, session.unfinished))
    write_page(
        directory,
        shown,
        suite=session.plan.suite,
        broken=session.broken,
        unfinished=session.unfinished,
    )


def summarize(session: Session) -> None:
    """Append the verdict to GitHub's summary of this step, where there is one."""
    append_summary(markdown(of_session(session), session.broken, session.unfinished))
