"""Whether a journal tells the same of a search as the trials in its run folder; a look that changes nothing."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.records import Flags
from harness.search.space import key_of
from harness.search.storage import MALFORMED, journal

Values = tuple[float, ...] | None
"""What was told of a candidate. None: it failed."""
SAME: Final = 1e-9
"""Numbers survive JSON exactly; this is for other versions of it."""


def journal_fault(path: Path, study: str, told: Mapping[str, Values]) -> str:
    """What no kill leaves behind: a line is missing or was changed. Empty: nothing, or there is no journal.

    Each candidate is queued, taken and named in the journal before it is launched, written to the folder when it has
    ended, and only then told. So what the folder has, the journal has heard of; what the journal was told, the folder
    has, with the same values; and what was never told is the last that its worker took.
    Args:  told: what the folder's trials say, by `key_of`.
    """
    if not path.exists():
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            kept = journal(path)
            is_begun = study in optuna.get_all_study_names(kept)  # or it was killed before that
            found = optuna.load_study(study_name=study, storage=kept).get_trials(deepcopy=False) if is_begun else []
        candidates = [trial for trial in found if "flags" in trial.user_attrs]
        return next(faults(candidates, told), "")
    except MALFORMED as error:
        return str(error) or "a line says what no study says"


def faults(candidates: Sequence[FrozenTrial], told: Mapping[str, Values]) -> Iterator[str]:
    """Each disagreement, in words."""
    taken = [trial for trial in candidates if trial.state != TrialState.WAITING]
    known = {key_of(trial.user_attrs["flags"]) for trial in taken}
    missing = sorted(told.keys() - known)
    if missing:
        yield f"it does not know {missing[0]}, which trials.jsonl has"
    for trial in candidates:
        flags: Flags = trial.user_attrs["flags"]
        key = key_of(flags)
        if trial.state not in {TrialState.COMPLETE, TrialState.PRUNED}:
            continue
        if not is_whole(trial):
            yield f"a line about {key} is missing"
        values = None if trial.state == TrialState.PRUNED else tuple(trial.values)
        if key not in told:
            yield f"it was told of {key}, which trials.jsonl does not have"
        elif not is_same(values, told[key]):
            yield f"it was told {values_text(values)} of {key}, and trials.jsonl says {values_text(told[key])}"
    last: dict[str, int] = {}
    for trial in taken:
        if "worker" in trial.user_attrs:
            last[str(trial.user_attrs["worker"])] = trial.number
    for trial in candidates:
        name = str(trial.user_attrs.get("worker"))
        if trial.state == TrialState.RUNNING and trial.number < last.get(name, trial.number):
            yield f"the end of {key_of(trial.user_attrs['flags'])} is missing, and others were tried after it"


def is_whole(trial: FrozenTrial) -> bool:
    """Whether a trial that was told was taken, named and given its values before, as each one is that was asked."""
    asked: object = trial.system_attrs.get("fixed_params")
    if asked is None:  # it was published by a run that went on, in one line
        return True
    return trial.datetime_start is not None and "worker" in trial.user_attrs and trial.params == asked


def is_same(one: Values, other: Values) -> bool:
    """Whether both failed, or have the same values."""
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=SAME) for a, b in zip(one, other, strict=True))


def values_text(values: Values) -> str:
    """As ratios to the baseline."""
    return "a failure" if values is None else " and ".join(f"{math.exp(one):.4g}x" for one in values)
