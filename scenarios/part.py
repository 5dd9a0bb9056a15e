"""What the users of one Locust process share: where records go, when measuring begins, how the process fares."""

import contextlib
import errno
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import gevent
import msgspec
from locust import events

from harness.records import ClientHealth, LoadShare, RequestRecord
from scenarios.meters import ClockWatch, LagMeter, quantile, round_trip_s
from scenarios.signals import POLL_S, Signals, sleep_until

WRITE_FAILED: Final = os.EX_IOERR
"""Exit code of a process that could not write what it measured: the parent knows it by this."""


class Part:
    """One process's part of a cell."""

    def __init__(self, share: LoadShare, *, signals: Signals, on_end: Callable[[], None]) -> None:
        self.share, self.job = share, share.job
        self.go_s = 0.0  # both are set when the load begins
        self.measure_s: float | None = None
        """When measuring begins; None as long as the load warms up."""
        self.is_steady: bool | None = None
        """Whether the load was steady when it had warmed up. None: it was not looked at."""
        self._signals, self._on_end = signals, on_end
        self._requests = 0
        self._first_s: float | None = None
        self._send_lags_s: list[float] = []
        self._lag, self._clocks = LagMeter(), ClockWatch()
        self._rtt_s: float | None = None
        self._start_cpu_s = 0.0
        self._cpu_s: float | None = None
        """What the full load took. None: it is still on."""
        self._cpu_until_s = 0.0
        # Unbuffered: each record is one write, so whole lines survive whatever ends this process.
        self._records = Path(share.job.requests_path).open("ab", buffering=0)  # noqa: SIM115 - lives as long as the process

    # ---------------------------------------------------------------- from begin to end

    def begin(self, *, measure_after_s: float | None) -> None:
        """Wait until all processes are ready; all begin at `go_s`, which is still to come on return.

        `measure_after_s` is when measuring begins, from there; None: when the parent says so, once all have warmed up.
        """
        # Keep the garbage collector from walking over Locust's modules while we measure.
        gc.collect()
        gc.freeze()
        self._rtt_s = round_trip_s(self.job.url)
        self.go_s = self._signals.await_go()
        if measure_after_s is not None:
            self.measure_s = self.go_s + measure_after_s
        gevent.spawn(self._start_meters)

    def say_warm(self, *, is_steady: bool | None) -> None:
        """The load has warmed up here: measuring may begin as soon as it has everywhere."""
        self.is_steady = is_steady
        self._signals.say_warm()

    def look(self) -> float | None:
        """When measuring begins, as far as the parent has said by now."""
        if self.measure_s is None:
            self.measure_s = self._signals.measure_s()
        return self.measure_s

    def end(self, *, stopped_s: float) -> None:
        """The last answer has ended: write how this process fared, and end it."""
        health = self._health(stopped_s=stopped_s, ended_s=time.perf_counter())
        try:
            Path(self.job.client_path).write_bytes(msgspec.json.encode(health))
        except OSError as error:
            self._give_up(str(error))
        self._on_end()

    # ---------------------------------------------------------------- request by request

    def count(self) -> None:
        """One more request is begun: as many records must come."""
        self._requests += 1

    def note_send_lag(self, late_s: float) -> None:
        """How late a measured request was sent."""
        self._send_lags_s.append(max(0.0, late_s))

    def note(self, record: RequestRecord) -> RequestRecord:
        """Append to the file and show it in Locust's own view; returns it with what it is part of."""
        measure_s = self.look()
        if measure_s is None or record.began_s < measure_s:
            record = msgspec.structs.replace(record, is_warmup=True)
        if self._first_s is None or record.began_s < self._first_s:
            self._first_s = record.began_s
        self._append(msgspec.json.encode(record) + b"\n")
        failure = None if record.error is None else RuntimeError(record.error)
        _show("WARMUP" if record.is_warmup else "ANSWER", self.job.api, record.e2e_s, failure)
        if record.ttft_s is not None and not record.is_warmup:
            # A type of its own: a row of METRIC is no request.
            _show("METRIC", "ttft", record.ttft_s, None)
        return record

    def _append(self, line: bytes) -> None:
        """Write a whole line or end this process: figures with holes must not look like figures."""
        sink = self._records.fileno()
        whole_bytes = os.fstat(sink).st_size
        fault: str | None = None
        try:
            if os.write(sink, line) < len(line):  # the room ended within the line
                fault = os.strerror(errno.ENOSPC)
        except OSError as error:
            fault = str(error)
        if fault is not None:
            os.ftruncate(sink, whole_bytes)
            self._give_up(fault)

    def _give_up(self, fault: str) -> NoReturn:
        with contextlib.suppress(OSError):  # it may lie on the same disk
            sys.stderr.write(f"cannot write {self.job.requests_path}: {fault}\n")
            sys.stderr.flush()
        # At once: whoever wants to end in order writes too, Locust its log and its table.
        os._exit(WRITE_FAILED)

    # ---------------------------------------------------------------- how it fares

    def _start_meters(self) -> None:
        while self.look() is None:
            gevent.sleep(POLL_S)
        assert self.measure_s is not None
        sleep_until(self.measure_s)
        self._start_cpu_s = time.process_time()
        gevent.spawn(self._lag.run)

    def stop_meters(self) -> None:
        """The full load is over: the quiet wait for the last answers must not thin out what it took."""
        if self._cpu_s is None:
            self._cpu_s, self._cpu_until_s = time.process_time() - self._start_cpu_s, time.perf_counter()
            self._lag.stop()

    def _health(self, *, stopped_s: float, ended_s: float) -> ClientHealth:
        assert self.measure_s is not None
        self.stop_meters()
        assert self._cpu_s is not None
        cpu_ratio = self._cpu_s / max(self._cpu_until_s - self.measure_s, sys.float_info.min)
        return ClientHealth(
            cpu_ratio=cpu_ratio,
            cpu_ratios=(cpu_ratio,),
            lag_p50_s=self._lag.quantile_s(0.50),
            lag_p99_s=self._lag.quantile_s(0.99),
            lag_max_s=self._lag.quantile_s(1.0),
            send_lag_p50_s=quantile(self._send_lags_s, 0.50),
            send_lag_p99_s=quantile(self._send_lags_s, 0.99),
            rtt_p50_s=self._rtt_s,
            started_s=self.measure_s,
            stopped_s=stopped_s,
            ended_s=ended_s,
            warmup_s=0.0 if self._first_s is None else max(0.0, self.measure_s - self._first_s),
            is_steady=self.is_steady,
            requests=self._requests,
            wall_step_s=self._clocks.wall_step_s,
            suspended_s=self._clocks.suspended_s,
        )


def _show(request_type: str, name: str, seconds: float, failure: Exception | None) -> None:
    events.request.fire(
        request_type=request_type,
        name=name,
        response_time=seconds * 1000,
        response_length=0,
        exception=failure,
        context={},
    )
