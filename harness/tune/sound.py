"""Whether a study's files are as they were written: what somebody changed is refused before anything is launched."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from harness.errors import ResultsUnreadable
from harness.records import ClosedLoop, Defence, DefenceLaunch, Estimate, Run, Trial
from harness.search import ALLOWABLE, journal_fault, key_of
from harness.store import RunFolder
from harness.tune.objectives import told
from harness.tune.plan import SIMULATED, Plan

VLLM: Final = "vllm"
JOURNAL: Final = "study.journal"
"""Where a search is kept that no database keeps."""
MAX_SECONDS: Final = 1e9
"""No launch takes 30 years."""
HINT: Final = "restore the file, or start a new search"


def refuse_unsound(folder: RunFolder, run: Run, plan: Plan) -> None:
    """Raises: ResultsUnreadable, with what is wrong in which file."""
    trials, launches = folder.trials(), folder.defence()
    found = {
        "plan.json": next(plan_faults(plan, run), ""),
        "trials.jsonl": next(trial_faults(trials), ""),
        "defence.jsonl": next(launch_faults(launches), ""),
        "run.json": "" if run.defence is None else next(defence_faults(run.defence, trials), ""),
    }
    for name, fault in found.items():
        if fault:
            raise ResultsUnreadable(f"{folder.path / name}: damaged: {fault}", hint=HINT)
    refuse_unsound_journal(folder, plan, trials)


def refuse_unsound_journal(folder: RunFolder, plan: Plan, trials: Sequence[Trial]) -> None:
    """Raises: ResultsUnreadable where the search would go on from something else than the trials that are there.

    Which of the two was changed nobody can know, so it is not mended here. A database that hosts share tells of more.
    """
    if plan.storage:
        return
    path = folder.path / JOURNAL
    measured = {key_of(trial.flags): told(trial, plan.objectives) for trial in trials if trial.is_candidate}
    if fault := journal_fault(path, plan.study, measured):
        raise ResultsUnreadable(
            f"{path}: damaged: {fault}",
            hint="restore the file; or, if you trust trials.jsonl, move it away: the search then goes on from those "
            "trials, and nothing that was measured is lost",
        )


def plan_faults(plan: Plan, run: Run) -> Iterator[str]:
    """What the command line would have refused, or a run of another engine."""
    if plan.engine not in {VLLM, SIMULATED}:
        yield f"no engine is called {plan.engine!r}"
    others = sorted({facts.engine for facts in run.engines} - {plan.engine})
    is_foreign = run.is_simulated and not run.engines and not plan.is_simulated  # a stand-in is known by its launch
    if others or is_foreign:
        yield f"the study is of {plan.engine}, and its launches were of {' and '.join(others) or SIMULATED}"
    if not plan.is_simulated and not plan.files.vllm_source:
        yield "it names no model that vLLM could load"
    if not plan.users or len(set(plan.users)) < len(plan.users) or min(plan.users) < 1:
        yield f"users {', '.join(map(str, plan.users)) or 'none'}"
    if not isinstance(plan.scenario.load, ClosedLoop) or set(plan.users) != set(plan.scenario.load.users):
        yield "users other than those of its scenario"
    at_least = {"repeats": plan.repeats, "trials": plan.trials, "workers": plan.workers}
    yield from (f"{name} {value}" for name, value in at_least.items() if value is not None and value < 1)
    if plan.budget_s is not None and not 0 < plan.budget_s < MAX_SECONDS:
        yield f"a budget of {plan.budget_s:g} s"
    yield from (f"nothing to allow is called {name!r}" for name in plan.allowed if name not in ALLOWABLE)


def trial_faults(trials: Sequence[Trial]) -> Iterator[str]:
    """Numbers that no study gives, times and ratios that nothing has."""
    if not trials:
        return  # it was killed while it measured the baseline
    counts = Counter(trial.number for trial in trials)
    yield from (f"{count} trials of number {number}" for number, count in counts.items() if count > 1)
    if 0 not in counts:
        yield "the baseline is missing"
    missing = sorted(set(range(max(counts) + 1)) - counts.keys())
    if missing and all(trial.worker is None for trial in trials):  # several workers are done in any order
        yield f"trial {missing[0]} is missing"
    for trial in trials:
        yield from (f"trial {trial.number}: {fault}" for fault in time_faults(trial))
        ratios = [*trial.objectives.values(), *filter(None, (trial.objective, trial.partial))]
        yield from (f"trial {trial.number}: a ratio of {one.value:g}" for one in ratios if not is_ratio(one))


def launch_faults(launches: Iterable[DefenceLaunch]) -> Iterator[str]:
    """Launches that are there twice, and times that nothing has."""
    counts = Counter((one.round, one.stage, one.role, one.block) for one in launches)
    yield from (f"{role} of block {block} is there {n} times" for (_, _, role, block), n in counts.items() if n > 1)
    for one in launches:
        yield from (f"{one.role} of block {one.block}: {fault}" for fault in time_faults(one))


def time_faults(one: Trial | DefenceLaunch) -> Iterator[str]:
    """Seconds that nothing takes."""
    times_s = [one.wall_s, *one.level_s.values(), *([] if one.launch_s is None else [one.launch_s])]
    yield from (f"a time of {found:g} s" for found in times_s if not 0 <= found < MAX_SECONDS)


def is_ratio(one: Estimate) -> bool:
    """Whether its logarithm can be had."""
    return all(0 < value < math.inf for value in (one.value, one.low, one.high))


def defence_faults(defence: Defence, trials: Iterable[Trial]) -> Iterator[str]:
    """Finalists that no trial is."""
    numbers = {trial.number for trial in trials}
    named = [*defence.finalists, *defence.refused, *([] if defence.winner is None else [defence.winner])]
    yield from (f"the defence names trial {number}, which is not there" for number in named if number not in numbers)
