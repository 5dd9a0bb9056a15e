"""Presents a run: one HTML page per run, and the list of them.

`view` puts a run into words, `html` and `charts` print them, `text` is the console. matplotlib and jinja2 take half a
second to load: whoever writes a page loads them, and who only prints does not.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from harness import config
from harness.errors import ResultsUnreadable
from harness.records import Cell, DefenceLaunch, Run, Target, Trial
from harness.report import words

__all__ = ["index", "render"]


def render(
    run: Run,
    cells: Sequence[Cell],
    trials: Sequence[Trial],
    *,
    launches: Sequence[DefenceLaunch] = (),
    out: Path,
    targets: Sequence[Target] | None = None,
) -> Path:
    """Writes out/<run id>.html, lists it in out/index.html, and returns the page's path.

    Args:     launches: of the defence of a search's winner.
              targets: rows of targets.toml. None: those of this installation.
    Raises:   ResultsUnreadable: an id that is no file name. UsageError: `out` cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run.id) or run.id == "index":
        raise ResultsUnreadable(f"{run.id!r} is no id of a run", hint="mend `id` in the run's run.json")
    from harness.report import html, view

    rows = config.targets() if targets is None else targets
    page = view.page(run, cells, trials, launches=launches, targets=rows)
    path = html.write(page, out / f"{run.id}.html")
    index(out)
    return path


def index(out: Path) -> Path:
    """Writes out/index.html, the list of the reports found there, newest first; other files are left out."""
    from harness.report import html, view

    found = [(path.name, summary) for path in out.glob("*.html") if (summary := html.summary_of(path)) is not None]
    found.sort(key=lambda entry: (entry[1].started_utc, entry[0]), reverse=True)
    entries = [view.entry(name, summary) for name, summary in found]
    return html.replace(out / "index.html", html.index_document(entries, count=words.plural(len(entries), "report")))
