"""Several workers of one search on this host: one process for each card, watched by the tuner that started them.

A worker is told what to do on its stdin, which stays open: its end is the tuner's end, and the worker ends itself. What
a worker says comes on its stdout, one JSON line each. Results go to the one run folder, whose lock the workers hold
too: nobody goes on with a run while a worker of it lives.
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from harness import config, errors, telemetry
from harness.engines import watchdog
from harness.errors import EngineError, HarnessError, UsageError
from harness.progress import Say
from harness.recording import Recording
from harness.records import Flags, GpuProfile, Record
from harness.tune.plan import Plan, role_of
from harness.tune.start import worker_name
from harness.tune.trials import given_up_trial
from harness.tune.world import SearchLike

POLL_S: Final = 0.2
STOP_GRACE_S: Final = 60.0
"""A worker that is to end stops its engine first."""
MOST_DEATHS: Final = 3
"""A worker that died so often without a trial between is not started again."""
TOLD: Final = (
    "Searched by {count} workers at the same time{cards}. Their load generators share this machine and disturb each "
    "other, {more}"
)


class Job(Record, frozen=True, kw_only=True):
    """What a worker is told; on its stdin, since a command line is everybody's to see and this may hold a password."""

    plan: Plan
    run: str
    """Path of the run folder."""
    results: str
    worker: int
    spent_s: float
    """Of the study, when it began."""
    storage: str | None


class Word(Record, frozen=True, kw_only=True):
    """One line of a worker's stdout."""

    kind: Literal["says", "error"]
    text: str
    error: str = ""
    """Name of its class."""
    hint: str = ""


# ---------------------------------------------------------------- the cards


def cards(
    count: int,
    profile: GpuProfile,
    *,
    is_simulated: bool,
    find_gpu: Callable[[], telemetry.Gpu | None] = telemetry.open_gpu,
) -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES calls the card of each worker; none where no card is used.

    Raises: UsageError: there are fewer, or they are not alike: a ratio must be to a baseline of the same card.
    """
    if count == 1 or is_simulated or profile.is_cpu:
        return ()
    gpu = find_gpu()
    if gpu is None:
        raise UsageError(
            f"--workers {count}: each worker needs a card of its own, and NVML sees none here",
            hint="leave --workers out, or try it with --engine simulated",
        )
    with gpu:
        names = gpu.names
    if len(names) < count:
        raise UsageError(
            f"--workers {count}: each worker needs a card of its own, and there are {len(names)}",
            hint=f"say --workers {len(names)}, or look at CUDA_VISIBLE_DEVICES",
        )
    chosen = dict(list(names.items())[:count])
    if len(set(chosen.values())) > 1:
        raise UsageError(
            f"--workers {count}: the cards are not alike ({', '.join(chosen.values())}), so no baseline holds for all",
            hint="choose cards of one kind with CUDA_VISIBLE_DEVICES",
        )
    return tuple(chosen)


def caches_of(worker: int) -> Path:
    """Where the worker's engines keep what they compiled."""
    return config.cache_folder() / "workers" / str(worker)


def share_caches(worker: int) -> None:
    """Gives a worker that has none a copy of the first one's caches, which the baseline filled.

    Filling them takes half of a first launch. They are apart, since vLLM's are not made for two writers at a time.
    """
    source, target = caches_of(1), caches_of(worker)
    if target.exists() or not source.is_dir():
        return
    draft = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        shutil.copytree(source, draft)
        draft.rename(target)
    except OSError:  # a full disk, or another study did the same: the worker compiles for itself
        shutil.rmtree(draft, ignore_errors=True)


def environment(worker: int, chosen: tuple[str, ...], inherited: Mapping[str, str]) -> dict[str, str]:
    """The worker's card, and caches of compiled code that no other worker writes to."""
    if not chosen:
        return dict(inherited)
    caches = caches_of(worker)
    apart = {
        "VLLM_CACHE_ROOT": str(caches / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    return {**inherited, **apart, "CUDA_VISIBLE_DEVICES": chosen[worker - 1]}


@contextlib.contextmanager
def on_first_card(plan: Plan) -> Iterator[tuple[str, ...]]:
    """What this process launches itself, it launches as the first worker would: the baseline and the defence.

    Yields the cards of all workers: within the block only the first one can be seen.
    """
    chosen = cards(plan.workers, plan.profile, is_simulated=plan.is_simulated)
    before = dict(os.environ)
    os.environ.update(environment(1, chosen, before))
    try:
        yield chosen
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


# ---------------------------------------------------------------- the workers


class Worker:
    """One process, and what it says."""

    def __init__(self, number: int, child: subprocess.Popen[bytes], heard: "queue.Queue[tuple[int, Word]]") -> None:
        self.number, self.child = number, child
        assert child.stdout is not None
        self._ears = threading.Thread(target=self._hear, args=(child.stdout, heard), daemon=True)
        self._ears.start()

    def _hear(self, source: IO[bytes], heard: "queue.Queue[tuple[int, Word]]") -> None:
        for line in source:
            if line.endswith(b"\n"):  # a killed worker's last words may be half ones
                heard.put((self.number, msgspec.json.decode(line, type=Word)))

    def ended(self) -> int | None:
        """Its exit code, once all that it said is heard. None: it lives."""
        code = self.child.poll()
        if code is not None:
            self._ears.join(timeout=1.0)
        return code

    def close(self) -> None:
        """Tells it to end; it stops its engine first."""
        if self.child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.child.stdin.close()


class Team:
    """The workers of a study while it searches.

    Args:  cards: of each worker, as `cards` gives them; none where no card is used.
           search: gives back what a dead worker had in hand. storage: URL with its password. None: the run folder.
           spent_s: of the study. measured: what was told of every candidate on disk, by `key_of`.
    """

    def __init__(
        self,
        plan: Plan,
        recording: Recording,
        search: SearchLike,
        *,
        cards: tuple[str, ...],
        results: Path,
        say: Say,
        storage: str | None,
        spent_s: Callable[[], float],
        measured: Callable[[], Mapping[str, tuple[float, ...] | None]],
    ) -> None:
        self._plan, self._recording, self._search_, self._results = plan, recording, search, results
        self._say, self._storage, self._spent_s, self._measured = say, storage, spent_s, measured
        self._cards = cards
        self._heard: queue.Queue[tuple[int, Word]] = queue.Queue()
        self._workers: dict[int, Worker] = {}
        self._deaths: Counter[int] = Counter()
        self._trials_at_death: dict[int, int] = {}

    def search(self) -> None:
        """Until no worker has anything left to do. Raises: HarnessError of a worker; EngineError: all died."""
        self._recording.add_note(self._note())
        done = 0
        try:
            for number in range(2, self._plan.workers + 1) if self._cards else ():
                share_caches(number)  # before the first one writes to its own
            for number in range(1, self._plan.workers + 1):
                self._start(number)
            while self._workers:
                self._listen()
                for number, worker in list(self._workers.items()):
                    code = worker.ended()
                    if code is not None:
                        del self._workers[number]
                        self._listen_to_the_rest()
                        done += code == 0
                        if code != 0:
                            self._died(number, code)
        finally:
            self._stop()
        if not done:
            raise EngineError(
                f"all workers died, {MOST_DEATHS} times each",
                hint=f"see the logs: {self._recording.folder.path}/worker-*.log",
            )

    def _note(self) -> str:
        cards_text = f", each on a card of its own ({', '.join(self._cards)})" if self._cards else ""
        more = (
            "so that ratios of the search are rougher than those of one worker, and to the defaults measured once more "
            "beside the others (trial 1); baseline and defence were measured alone, on the first card."
        )
        if self._plan.is_simulated:
            return f"Searched by {self._plan.workers} workers at the same time, each in a virtual time of its own."
        if self._plan.profile.is_cpu:
            more = "and so do their engines, which share its cores: the ratios of the search say little."
        return TOLD.format(count=self._plan.workers, cards=cards_text, more=more)

    # ------------------------------------------------------------ their lives

    def _start(self, number: int) -> None:
        folder = self._recording.folder
        job = Job(
            plan=self._plan,
            run=str(folder.path.resolve()),
            results=str(self._results.resolve()),
            worker=number,
            spent_s=self._spent_s(),
            storage=self._storage,
        )
        ours = str(Path(__file__).parents[2])
        env = environment(number, self._cards, os.environ)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [ours, env.get("PYTHONPATH", "")]))
        assert folder.lock_file is not None
        with folder.path.joinpath(f"worker-{number}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.tune.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,
                pass_fds=[folder.lock_file],
            )
        self._workers[number] = Worker(number, child, self._heard)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once, which is seen soon
            child.stdin.write(msgspec.json.encode(job) + b"\n")
            child.stdin.flush()

    def _listen(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._take(*self._heard.get(timeout=POLL_S))
            self._listen_to_the_rest()

    def _listen_to_the_rest(self) -> None:
        while not self._heard.empty():
            self._take(*self._heard.get())

    def _take(self, number: int, word: Word) -> None:
        if word.kind == "error":
            raise error_of(word, number)
        self._say(f"worker {number}  {word.text.removeprefix('simulated  ')}")

    def _died(self, number: int, code: int) -> None:
        """What it had in hand is free for the others, or given up; another one takes its place."""
        why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._say(f"worker {number} {why}; what it was measuring is taken up again")
        trials = len(self._recording.folder.trials())
        if self._trials_at_death.get(number) != trials:
            self._deaths[number] = 0
        self._trials_at_death[number] = trials
        self._deaths[number] += 1
        self._search_.take_back(worker_name(self._plan, self._recording.folder, number), measured=self._measured())
        for flags in self._search_.given_up():
            self._give_up(flags)
        if self._deaths[number] < MOST_DEATHS:
            self._start(number)
        else:
            self._say(f"worker {number} died {MOST_DEATHS} times in a row and is not started again")

    def _give_up(self, flags: Flags) -> None:
        folder = self._recording.folder
        with folder.claimed_number(most=None) as number:
            assert number is not None
            folder.set_aside(lambda cell: cell.role == role_of(number))
            trial = given_up_trial(number, flags)
            folder.append_trial(trial)
        self._search_.remember([trial])
        self._say(f"{role_of(trial.number)}: {trial.outcome}: {trial.reason}")

    def _stop(self) -> None:
        """Ends all that live, their engines first; a second interrupt does not wait for those."""
        for worker in self._workers.values():
            worker.close()
        try:
            for worker in self._workers.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.child.wait(timeout=STOP_GRACE_S)
        finally:
            for worker in self._workers.values():
                if worker.child.poll() is None:
                    watchdog.end_group(worker.child.pid, grace_s=0.0)
                    worker.child.wait()
            self._workers.clear()


def error_of(word: Word, number: int) -> HarnessError:
    """What ended a worker, as the error that it was there."""
    kind = getattr(errors, word.error, HarnessError)
    found: HarnessError = kind(f"worker {number}: {word.text}", hint=word.hint)
    return found
