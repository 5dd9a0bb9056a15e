"""`harness report`."""

from pathlib import Path

import click

from harness import store
from harness.cli.common import (
    answer,
    cli,
    output_options,
    reports_option,
    say,
    write_report,
)
from harness.records import RunState
from harness.store import RunFolder


@cli.command("report")
@click.argument("runs", nargs=-1, required=True)
@output_options
@reports_option
def report_command(*, runs: tuple[str, ...], is_json: bool, results: Path, out: Path) -> int:
    """Write the HTML report of runs from their folders, at any later day."""
    folders = [store.find_run(results, name) for name in runs]
    pages = [write_report(folder, out) for folder in folders]
    for folder in folders:
        say_how_it_ended(folder)
    if is_json:
        answer({"reports": [str(page) for page in pages]})
    else:
        for page in pages:
            click.echo(str(page))
    return 0


def say_how_it_ended(folder: RunFolder) -> None:
    """What is no whole run: its page may be of few cells, or of none."""
    run, cells = folder.run(), len(folder.cells())
    if run.state != RunState.DONE:
        said = f"{run.id}: {run.state}, with {cells} cells"
        say(f"{said}: {run.error}" if run.error else said)
