"""Prints the flags of the vLLM whose interpreter runs this file, as one line of JSON; no line where it cannot.

Usage: python probe_flags.py MODULE. The module is started as `python -m` does it, and stopped where it would read its
command line: by then it has built its parser, in whatever way this version does that. Only the standard library is
imported here, since no other of ours is installed there.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path

TOLD = "flags of this vLLM: "
PLAIN = (bool, int, float, str)


def kind_of(action: argparse.Action) -> str:
    """What it takes, found by letting it read: "bool", "int", "float", "json" or "str"."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return "bool"
    if isinstance(read("[]", action), list):
        return "json"
    if isinstance(read("0.5", action), float):
        return "float"
    return "int" if isinstance(read("1", action), int) else "str"


def read(text: str, action: argparse.Action) -> object:
    """What the flag makes of `text`; None where it refuses it."""
    if not callable(action.type):
        return None
    try:
        return action.type(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return None


def choices_of(action: argparse.Action) -> list[object]:
    """All values; empty where any of its kind will do. vLLM shows some lists where a placeholder belongs."""
    shown = action.choices or (action.metavar if isinstance(action.metavar, list) else ())
    return [choice for choice in shown if isinstance(choice, PLAIN)]


def tell(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
    """In place of reading a command line."""
    found = []
    for action in parser._actions:
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        plain = [name for name in names if not name.startswith("no-")] or names
        for name in plain:
            default = action.default if isinstance(action.default, PLAIN) else None
            is_suppressed = default == argparse.SUPPRESS
            found.append(
                {
                    "name": name,
                    "kind": kind_of(action),
                    "choices": choices_of(action),
                    "default": None if is_suppressed else default,
                }
            )
    print(TOLD + json.dumps(found), flush=True)  # noqa: T201 - it is a program, and this its answer
    sys.exit(0)


if __name__ == "__main__":
    module = sys.argv[1]
    sys.argv = [module]
    # The folder of this file, which Python puts first, has a vllm.py that is not vLLM.
    sys.path[:] = [folder for folder in sys.path if Path(folder).absolute() != Path(__file__).absolute().parent]
    argparse.ArgumentParser.parse_args = tell  # type: ignore[method-assign, assignment]
    argparse.ArgumentParser.parse_known_args = tell  # type: ignore[method-assign, assignment]
    runpy.run_module(module, run_name="__main__")
