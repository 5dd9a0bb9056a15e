"""The commands: parse, call, print, exit code. No arithmetic, no files. One file for each command."""

import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from harness.cli.common import Interrupted, cli, say, told
from harness.errors import HarnessError, UsageError

AGAIN_S = 0.01


# ---------------------------------------------------------------- the one place where exceptions end


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code; every error is a sentence, a hint and a code."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_json = "--json" in words
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)  # also where a script's `&` has had SIGINT ignored
    signal.signal(signal.SIGALRM, interrupt)
    sys.unraisablehook = interrupted_again
    try:
        code = cli.main(words, prog_name="harness", standalone_mode=False)
    except HarnessError as error:
        code = told(error, is_json=is_json)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        code = UsageError.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "harness"
        code = told(UsageError(error.format_message(), hint=f"see {command} --help"), is_json=is_json)
    except click.ClickException as error:
        code = told(UsageError(error.format_message()), is_json=is_json)
    except (KeyboardInterrupt, click.Abort):
        code = told(
            Interrupted("interrupted", hint="whatever was measured is kept in the results folder"), is_json=is_json
        )
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        code = told(
            UsageError(
                f"a file or folder failed:{where}: {error.strerror or error}", hint="make room, or check rights"
            ),
            is_json=is_json,
        )
    except Exception as error:  # noqa: BLE001  the last resort, which says that it is one
        traceback.print_exc()
        bug = HarnessError(f"a bug of harness: {error!r}", hint="please report it with the lines above")
        code = told(bug, is_json=is_json)
    sys.exit(code if isinstance(code, int) else 0)


def interrupt(*_: object) -> NoReturn:
    """The answer to Ctrl-C, SIGTERM and a closed terminal alike: engines are stopped and records closed on the way."""
    raise KeyboardInterrupt


def interrupted_again(lost: "sys.UnraisableHookArgs") -> None:
    """An interruption that came while Python ran a callback, which no exception leaves: it comes once more, at once."""
    if lost.exc_type is not None and issubclass(lost.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)
