"""The scheduler in real time: steps that end when they are due, tokens that go out then."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from harness.simulation.machine import Crashed, Server, Stalled
from harness.simulation.scheduler import Sequence, Step
from harness.simulation.timing import HTTP_IN_S, TOKENIZE_S
from harness.wire.ticker import FOR_EVER, Ticker, Waits

CATCH_UP_S: Final = 0.002
BREATH_S: Final = 0.0002
"""Steps that are late follow one another at once, but after so long requests are read in between."""


class Reader(Protocol):
    """Whoever waits for an answer."""

    def token(self) -> None:
        """One more."""

    def fail(self) -> None:
        """There will be no more: the engine is dead."""


class Live:
    """One engine. Its steps lie on a timetable: one that comes late does not delay the next."""

    def __init__(self, server: Server, *, speed: float, ticker: Ticker, on_death: Callable[[Crashed], None]) -> None:
        self.server, self.scheduler = server, server.scheduler
        self.prompt_tokens = self.output_tokens = 0
        self.late_s = 0.0
        """The latest that a step has ended."""
        self._speed, self._ticker, self._on_death = speed, ticker, on_death
        self._readers: dict[Sequence, Reader] = {}
        self._gone: list[Sequence] = []
        self._is_working = False
        self._breathed_s = 0.0

    def submit(self, sequence: Sequence, reader: Reader, *, received_s: float) -> None:
        """A request that has come; the scheduler has it when its text is tokenized."""
        self._readers[sequence] = reader
        at_s = received_s + (HTTP_IN_S + TOKENIZE_S * sequence.prompt_tokens) / self._speed
        self._ticker.run(self._arrival(sequence, at_s), lambda: None)

    def abort(self, sequence: Sequence) -> None:
        """Its client has gone; the step under way still counts it."""
        if self._readers.pop(sequence, None) is not None:
            self._gone.append(sequence)

    def _arrival(self, sequence: Sequence, at_s: float) -> Waits:
        yield at_s
        if sequence not in self._readers:
            return
        self.scheduler.add(sequence)
        if not self._is_working:
            self._is_working = True
            self._ticker.run(self._work(), self._rest)

    def _rest(self) -> None:
        self._is_working = False

    def _work(self) -> Waits:
        """Step after step, as long as there is something to do."""
        due_s = time.perf_counter()
        while True:
            self._let_go()
            if self.scheduler.is_idle:
                return
            step = self.scheduler.schedule()
            receivers = [one for one in self.scheduler.running if one.since is not None]
            receivers += [piece.sequence for piece in step.prefills if piece.is_last]
            try:
                step_s = self.server.step_s(step)
            except Crashed as crash:
                self._die(crash)
                return
            except Stalled:
                yield FOR_EVER
                return
            self.server.machine.now_s += step_s
            due_s += step_s / self._speed
            yield self._moment(due_s)
            self.late_s = max(self.late_s, time.perf_counter() - due_s)
            self._finish(step, receivers)

    def _moment(self, due_s: float) -> float:
        """When the step that is due then can end."""
        now_s = time.perf_counter()
        if due_s < now_s < self._breathed_s + CATCH_UP_S:
            return due_s
        self._breathed_s = now_s
        return max(due_s, now_s + BREATH_S)

    def _finish(self, step: Step, receivers: list[Sequence]) -> None:
        self.output_tokens += len(receivers)
        self.prompt_tokens += sum(
            piece.sequence.prompt_tokens for piece in step.prefills if piece.is_last and not piece.sequence.generated
        )
        self.scheduler.commit(step)
        for sequence in receivers:
            reader = self._readers.get(sequence)
            if reader is not None:
                reader.token()

    def ended(self, sequence: Sequence) -> None:
        """Its reader has all of it."""
        self._readers.pop(sequence, None)

    def _let_go(self) -> None:
        for sequence in self._gone:
            if sequence in self.scheduler.running or sequence in self.scheduler.waiting:
                self.scheduler.abort(sequence)
        self._gone.clear()

    def _die(self, crash: Crashed) -> None:
        readers = list(self._readers.values())
        self._readers.clear()
        for reader in readers:
            reader.fail()
        self._on_death(crash)
