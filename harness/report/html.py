"""A page as one self-contained HTML file: its style and charts are inside, it asks the network for nothing."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.errors import UsageError
from harness.report import charts
from harness.report.charts import Draw
from harness.report.page import Entry, Page, Summary

TEMPLATES: Final = Path(__file__).parent / "templates"
EMBEDDED: Final = re.compile(r'<script type="application/json" id="harness-run">(.*?)</script>', re.DOTALL)
HEAD_BYTES: Final = 65_536
"""The summary lies in the first lines of a page; the charts behind it are not read for the index."""


def write(page: Page, path: Path) -> Path:
    """The page's file, replaced at once. Raises: UsageError where it cannot be written."""
    return replace(path, document(page))


def document(page: Page, *, draw: Draw = charts.svg) -> str:
    """The page as HTML."""
    return environment().get_template("page.html.j2").render(page=page, embedded=embedded(page.summary), draw=draw)


def index_document(entries: Sequence[Entry], *, count: str) -> str:
    """The list of reports as HTML."""
    return environment().get_template("index.html.j2").render(entries=entries, count=count)


def environment() -> Environment:
    """Templates in which all text is escaped and an unknown name is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def embedded(summary: Summary) -> str:
    """The summary as JSON that cannot end the script element it stands in."""
    text = msgspec.json.encode(summary).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def summary_of(path: Path) -> Summary | None:
    """What a page says of its run. None: this is no page of ours, or one that cannot be read."""
    try:
        with path.open("rb") as source:
            head = source.read(HEAD_BYTES).decode("utf-8", errors="replace")
        found = EMBEDDED.search(head)
        return msgspec.json.decode(found.group(1), type=Summary) if found else None
    except (OSError, msgspec.DecodeError):
        return None


def replace(path: Path, text: str) -> Path:
    """Writes beside the file and renames, so that a reader never sees half a page."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="choose another folder with --out") from error
    return path
