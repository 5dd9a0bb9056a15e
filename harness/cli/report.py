"""`harness report`."""

from pathlib import Path

import click

from harness import store
from harness.cli.common import (
    answer,
    cli,
    output_options,
    reports_option,
    write_report,
)


@cli.command("report")
@click.argument("runs", nargs=-1, required=True)
@output_options
@reports_option
def report_command(*, runs: tuple[str, ...], is_json: bool, results: Path, out: Path) -> int:
    """Write the HTML report of runs from their folders, at any later day."""
    pages = [write_report(store.find_run(results, name), out) for name in runs]
    if is_json:
        answer({"reports": [str(page) for page in pages]})
    else:
        for page in pages:
            click.echo(str(page))
    return 0
