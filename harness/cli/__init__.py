"""The commands: parse, call, print, exit code. No arithmetic, no files. One file for each command."""

import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from harness import interrupts
from harness.cli.common import Interrupted, cli, say, told
from harness.errors import HarnessError, UsageError

AGAIN_S = 0.01
INTERRUPTION = Interrupted("interrupted", hint="whatever was measured is kept in the results folder")


# ---------------------------------------------------------------- the one place where exceptions end


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code; every error is a sentence, a hint and a code."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_json = "--json" in words
    for number in interrupts.heeded():
        signal.signal(number, interrupt)
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
        code = told(INTERRUPTION, is_json=is_json)
    except OSError as error:
        code = told(fault_of_system(error), is_json=is_json)
    except Exception as error:  # noqa: BLE001  the last resort, which says that it is one
        traceback.print_exc()
        bug = HarnessError(f"a bug of harness: {error!r}", hint="please report it with the lines above")
        code = told(bug, is_json=is_json)
    sys.exit(code if isinstance(code, int) else 0)


def fault_of_system(error: OSError) -> HarnessError:
    """What a file or folder did; or an interruption, after which click had a line end for a terminal that is gone."""
    if isinstance(error.__context__, KeyboardInterrupt):
        return INTERRUPTION
    where = f" {error.filename}" if error.filename else ""
    why = f"a file or folder failed:{where}: {error.strerror or error}"
    return UsageError(why, hint="make room, or check rights")


def interrupt(*_: object) -> NoReturn:
    """The answer to Ctrl-C, SIGTERM and a closed terminal alike: engines are stopped and records closed on the way."""
    raise KeyboardInterrupt


def interrupted_again(lost: "sys.UnraisableHookArgs") -> None:
    """An interruption that came while Python ran a callback, which no exception leaves: it comes once more, at once."""
    if lost.exc_type is not None and issubclass(lost.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)
