"""What failures teach: contexts that do not fit, memory that runs out, refused flags, places that crash. Pure."""

import re
from typing import Final

from harness.records import Flags, FlagValue, Outcome, Trial
from harness.roofline import VLLM_SHARE
from harness.search.space import (
    BATCHED,
    CONTEXT,
    CONTEXT_GRAIN,
    KV_SIZE,
    KV_TYPE,
    SEQS,
    SHARE,
    Places,
    Space,
    count,
    key_of,
)

GIB: Final = 2**30
SHORT: Final = "memory_short_gib"
"""Name of the constraint that says by how much memory was short."""
REFUSED_VALUE: Final = re.compile(r"(?:argument |refuses its flags: )(?:-\w+/)?--([\w.-]+)")
"""argparse on a value, "argument --dtype: invalid choice: 'f9'", and the same as `engines.failures` says it."""
UNKNOWN: Final = re.compile(r"(?:unrecognized arguments:|does not know the flag)((?: \S+)+)")


class Lessons:
    """All that failures of one study have taught. `reason` says what it forbids, `mended` what it makes of flags."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._contexts: list[tuple[Flags, int]] = []
        self._walls: list[Trial] = []
        self._refused: set[tuple[str, FlagValue | None]] = set()
        self._worked: set[tuple[str, FlagValue]] = set()
        self._failed: dict[str, str] = {}
        self.rough: list[Places] = []
        """Where an engine crashed, hung or ran out of memory: the neighbourhood is looked at last."""

    def learn(self, trial: Trial) -> None:
        """From how it ended."""
        match trial.outcome:
            case Outcome.MEASURED | Outcome.STOPPED:
                self._worked |= set(trial.flags.items())
                return
            case Outcome.INVALID:
                return
            case Outcome.CONTEXT_TOO_LONG if trial.fits_tokens:
                self._contexts.append((trial.flags, trial.fits_tokens))
            case Outcome.OUT_OF_MEMORY:
                self._walls.append(trial)
                self.rough.append(self._space.places_of(trial.flags))
            case Outcome.BAD_FLAG:
                self._refused |= set(refused_by(trial))
            case _:
                self.rough.append(self._space.places_of(trial.flags))
        self._failed[key_of(trial.flags)] = f"it failed before: {trial.outcome}"

    def mended(self, flags: Flags) -> Flags:
        """With a context cut to the length that is known to fit."""
        context = count(flags, CONTEXT)
        fits = [tokens for failed, tokens in self._contexts if tokens < context and has_no_more_room(flags, failed)]
        if not fits:
            return flags
        return {**flags, CONTEXT: min(fits) // CONTEXT_GRAIN * CONTEXT_GRAIN}

    def reason(self, flags: Flags) -> str | None:
        """Why these flags are not worth a launch. None: nothing known speaks against them."""
        if (known := self._failed.get(key_of(flags))) is not None:
            return known
        for name, value in flags.items():
            if (name, None) in self._refused:
                return f"--{name} was refused"
            if (name, value) in self._refused and (name, value) not in self._worked:
                return f"--{name} {value} was refused"
        for wall in self._walls:
            if self._is_beyond(flags, wall):
                return f"it needs no less memory than what ran out with {key_of(wall.flags)}"
        return None

    def _is_beyond(self, flags: Flags, wall: Trial) -> bool:
        """Whether these flags need as much memory as those that ran out, less than what was short.

        Out of memory at the start it is unknown which way the KV cache's share would help, so only equal shares are
        compared; under load a larger share leaves less for all else.
        """
        theirs = wall.flags
        if flags.get(KV_TYPE) != theirs.get(KV_TYPE) or flags.get(KV_SIZE) != theirs.get(KV_SIZE):
            return False
        mine_share, their_share = share(flags), share(theirs)
        is_under_load = wall.launch_s is not None or wall.died_under_users is not None
        if mine_share < their_share or (mine_share > their_share and not is_under_load):
            return False
        if all(count(flags, name) >= count(theirs, name) for name in (BATCHED, SEQS)):
            return True
        short = wall.constraints.get(SHORT)
        if short is None or self._space.memory is None:
            return False
        need = self._space.memory
        return need.work_bytes(theirs) - need.work_bytes(flags) < short * GIB


def has_no_more_room(flags: Flags, failed: Flags) -> bool:
    """Whether the KV cache of `flags` is no larger, in tokens, than that of `failed`, whatever the batch."""
    is_lighter = flags.get(KV_TYPE) != failed.get(KV_TYPE)
    is_larger = share(flags) > share(failed) or count(flags, KV_SIZE) > count(failed, KV_SIZE)
    return not is_lighter and not is_larger


def share(flags: Flags) -> float:
    """Of the card's memory."""
    value = flags.get(SHARE)
    return VLLM_SHARE if value is None else float(value)


def refused_by(trial: Trial) -> list[tuple[str, FlagValue | None]]:
    """Flags that vLLM named in its refusal: with the value, or None where it does not know the flag at all."""
    found: list[tuple[str, FlagValue | None]] = []
    for match in UNKNOWN.finditer(trial.reason):
        for name in (word[2:].partition("=")[0] for word in match[1].split() if word.startswith("--")):
            if name in trial.flags:
                found.append((name, None))
            elif trial.flags.get(positive := name.removeprefix("no-")) is False:
                found.append((positive, False))
    named = [match[1] for match in REFUSED_VALUE.finditer(trial.reason)]
    return found + [(name, trial.flags[name]) for name in named if name in trial.flags]
