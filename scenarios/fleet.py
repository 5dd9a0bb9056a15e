"""One cell's load from several machines, over Locust's own master and its workers.

The master stands beside `harness/load.py` and looks to it like the processes of a load on one machine: it reads their
shares, leaves the marks of `signals.py` for them and writes their records and accounts, on its own clock. A worker is
told its share and both moments by messages, on its clock, and sends its records while the load runs.

    harness-clock     master → worker: what time is it; and back, with the time
    harness-share     master → worker: the share, once its clock is known
    harness-ready     worker → master, and harness-warm: the marks ready-N and steady-N
    harness-moment    master → worker: "go" or "measure", and when
    harness-records   worker → master: whole lines
    harness-health    worker → master: the account, after the last record
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
import msgspec
from gevent.event import AsyncResult, Event

from harness.records import ClientHealth, ClosedLoop, LoadShare, Replay, RequestRecord
from scenarios.clocks import Offset, moved, moved_health, offset
from scenarios.closed import ClosedPart
from scenarios.opened import OpenPart
from scenarios.part import Part
from scenarios.signals import POLL_S

CLOCK_QUESTIONS: Final = 20
ANSWER_WITHIN_S: Final = 1.0
UNHEARD_QUESTIONS: Final = 10
"""So many may go without an answer."""
SENT_EVERY_S: Final = 1.0
"""How often a worker sends what it has recorded: so much is lost with it at most."""
LOOKED_EVERY_S: Final = 0.5
WORKER_LOST: Final = os.EX_UNAVAILABLE
"""Exit code of a master that has lost a worker: the parent knows it by this."""
SHARES: Final = "share-*.json"


# ---------------------------------------------------------------- the master


class Master:
    """Stands for all workers before the parent."""

    def __init__(self, runner: Any, *, folder: Path, on_end: Callable[[int], None]) -> None:
        """`folder`: of the signals, where the parent has also left a share for each worker."""
        self._runner, self._signals, self._on_end = runner, folder, on_end
        paths = sorted(folder.glob(SHARES), key=lambda path: int(path.stem.rpartition("-")[2]))
        self._shares = [msgspec.json.decode(path.read_bytes(), type=LoadShare) for path in paths]
        self._clients: list[str] = []
        self._offsets: dict[str, Offset] = {}
        self._answers: dict[tuple[str, int], AsyncResult] = {}
        self._accounts: set[str] = set()
        self._has_ended = False
        for kind, heard in (
            ("clock", self._heard_clock),
            ("ready", self._heard_ready),
            ("warm", self._heard_warm),
            ("records", self._heard_records),
            ("health", self._heard_health),
        ):
            runner.register_message(f"harness-{kind}", heard)
        runner.environment.events.worker_connect.add_listener(self._enrol)
        for moment in ("go", "measure"):
            gevent.spawn(self._relay, moment)
        gevent.spawn(self._watch)

    def live(self) -> None:
        """A master has no users of its own."""

    def _enrol(self, client_id: str, **_: object) -> None:
        """Locust tells of each worker as it comes; those beyond the expected number get nothing to do."""
        if client_id not in self._clients and len(self._clients) < len(self._shares):
            self._clients.append(client_id)
            gevent.spawn(self._hand_out, client_id)

    def _hand_out(self, client_id: str) -> None:
        exchanges: list[tuple[float, float, float]] = []
        for number in range(CLOCK_QUESTIONS + UNHEARD_QUESTIONS):
            answer = self._answers[client_id, number] = AsyncResult()
            sent_s = time.perf_counter()
            self._send("clock", client_id, number=number)
            # A worker tells Locust that it is there a moment before it listens to us.
            with contextlib.suppress(gevent.Timeout):
                theirs_s, received_s = answer.get(timeout=ANSWER_WITHIN_S)
                exchanges.append((sent_s, theirs_s, received_s))
            if len(exchanges) == CLOCK_QUESTIONS:
                break
        else:
            self._lose(client_id)
            return
        self._offsets[client_id] = offset(exchanges)
        share = self._share(client_id)
        load = share.job.load
        # A worker has not the files of this machine.
        trace = Path(load.trace).read_bytes() if isinstance(load, Replay) else b""
        self._send("share", client_id, share=msgspec.json.encode(share), trace=trace)

    def _relay(self, moment: str) -> None:
        """The parent's word to all workers, each on its own clock."""
        file = self._signals / moment
        while not file.exists():
            gevent.sleep(POLL_S)
        at_s = float(file.read_text())
        for client_id in self._clients:
            self._send("moment", client_id, name=moment, at_s=at_s - self._offsets[client_id].add_s)

    def _watch(self) -> None:
        """A worker that is gone before its account is there takes the cell with it."""
        while True:
            gevent.sleep(LOOKED_EVERY_S)
            for client_id in self._clients:
                node = self._runner.clients.get(client_id)
                is_gone = node is None or node.state == "missing"
                if is_gone and client_id not in self._accounts:
                    self._lose(client_id)
                    return

    def _lose(self, client_id: str) -> None:
        self._end(WORKER_LOST, f"the worker on {client_id.rpartition('_')[0]} was lost: nothing comes from it any more")

    def _heard_clock(self, msg: Any, **_: object) -> None:
        received_s = time.perf_counter()
        self._answers[msg.node_id, msg.data["number"]].set((msg.data["now_s"], received_s))

    def _heard_ready(self, msg: Any, **_: object) -> None:
        (self._signals / f"ready-{self._part(msg.node_id)}").touch()

    def _heard_warm(self, msg: Any, **_: object) -> None:
        (self._signals / f"steady-{self._part(msg.node_id)}").touch()

    def _heard_records(self, msg: Any, **_: object) -> None:
        add_s = self._offsets[msg.node_id].add_s
        records = (msgspec.json.decode(line, type=RequestRecord) for line in msg.data["lines"].splitlines())
        lines = b"".join(msgspec.json.encode(moved(record, add_s)) + b"\n" for record in records)
        try:
            with Path(self._share(msg.node_id).job.requests_path).open("ab") as file:
                file.write(lines)
        except OSError as error:
            self._end(os.EX_IOERR, f"cannot write records: {error.strerror}")

    def _heard_health(self, msg: Any, **_: object) -> None:
        health = msgspec.json.decode(msg.data["health"], type=ClientHealth)
        account = moved_health(health, self._offsets[msg.node_id])
        try:
            Path(self._share(msg.node_id).job.client_path).write_bytes(msgspec.json.encode(account))
        except OSError as error:
            self._end(os.EX_IOERR, f"cannot write a client's account: {error.strerror}")
            return
        self._accounts.add(msg.node_id)
        if len(self._accounts) == len(self._shares):
            self._end(0)

    def _end(self, exit_code: int, why: str = "") -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if why:
            sys.stderr.write(f"{why}\n")
        self._on_end(exit_code)

    def _part(self, client_id: str) -> int:
        return self._clients.index(client_id)

    def _share(self, client_id: str) -> LoadShare:
        return self._shares[self._part(client_id)]

    def _send(self, kind: str, client_id: str, **data: object) -> None:
        self._runner.send_message(f"harness-{kind}", data, client_id)


# ---------------------------------------------------------------- a worker


class Worker:
    """One machine's part: `signals.Signals` by messages, and the load as one Locust user."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._share = AsyncResult()
        self._moments: dict[str, float] = {}
        self._has_go = Event()
        self._folder = tempfile.TemporaryDirectory(prefix="harness-worker-")
        self._records = Path(self._folder.name) / "requests.jsonl"
        self._health = Path(self._folder.name) / "client.json"
        self._sent_bytes = 0
        for kind, heard in (
            ("clock", self._heard_clock),
            ("share", self._heard_share),
            ("moment", self._heard_moment),
        ):
            runner.register_message(f"harness-{kind}", heard)

    def live(self) -> None:
        """All users of this machine; Locust has started one for them."""
        share: LoadShare = self._share.get()
        part = Part(share, signals=self, on_end=self._end)
        gevent.spawn(self._send_for_ever)
        if not isinstance(share.job.load, ClosedLoop):
            OpenPart(part).live()
            return
        load = ClosedPart(part)
        gevent.joinall([gevent.spawn(load.live) for _ in range(share.users)], raise_error=True)

    # ---------------------------------------------------------------- signals

    def await_go(self) -> float:
        """Wait for the master's word."""
        self._send("ready")
        self._has_go.wait()
        return self._moments["go"]

    def say_warm(self) -> None:
        """Tell the master."""
        self._send("warm")

    def measure_s(self) -> float | None:
        """As far as the master has said."""
        return self._moments.get("measure")

    # ---------------------------------------------------------------- messages

    def _heard_clock(self, msg: Any, **_: object) -> None:
        self._send("clock", number=msg.data["number"], now_s=time.perf_counter())

    def _heard_share(self, msg: Any, **_: object) -> None:
        share = msgspec.json.decode(msg.data["share"], type=LoadShare)
        job = msgspec.structs.replace(share.job, requests_path=str(self._records), client_path=str(self._health))
        if isinstance(job.load, Replay):
            trace = Path(self._folder.name) / "trace.jsonl"
            trace.write_bytes(msg.data["trace"])
            job = msgspec.structs.replace(job, load=msgspec.structs.replace(job.load, trace=str(trace)))
        self._share.set(msgspec.structs.replace(share, job=job))

    def _heard_moment(self, msg: Any, **_: object) -> None:
        self._moments[msg.data["name"]] = msg.data["at_s"]
        if msg.data["name"] == "go":
            self._has_go.set()

    def _send_for_ever(self) -> None:
        while True:
            gevent.sleep(SENT_EVERY_S)
            self._send_records()

    def _send_records(self) -> None:
        """What came since the last time; `Part` writes whole lines only."""
        with self._records.open("rb") as file:
            file.seek(self._sent_bytes)
            lines = file.read()
        self._sent_bytes += len(lines)
        if lines:
            self._send("records", lines=lines)

    def _end(self) -> None:
        """The master ends this process when it has heard from all."""
        self._send_records()
        self._send("health", health=self._health.read_bytes())

    def _send(self, kind: str, **data: object) -> None:
        self._runner.send_message(f"harness-{kind}", data)
