"""What is asked of a server: scenarios, and the jobs that Locust's processes are given."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from harness.records.base import Record


class Sampling(Record, frozen=True, kw_only=True):
    """Sampling values, sent explicitly and equal to every engine; the defaults are greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0: no limit, on every engine (sent to vLLM as its own 0)."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Workload(Record, frozen=True, kw_only=True):
    """What one request asks for."""

    prompt_words: int
    """English words of the unique part; tokens are counted by the server, never by us."""
    output_tokens: int
    is_streamed: bool
    sampling: Sampling = Sampling()
    shared_prefix_words: int = 0
    """Words of a system message that all requests of a cell share, so that a prefix cache has something to keep."""
    turns: int = 1
    """Over 1: a conversation of so many turns, each of which sends all that was said before; then a new one begins."""


class ClosedLoop(Record, frozen=True, kw_only=True, tag_field="kind", tag="closed"):
    """A fixed number of users, each sending its next request when the last one has ended."""

    users: tuple[int, ...]
    requests_per_user: int
    """Each user ends at least so many requests, however long that takes (up to `max_s`)."""
    min_requests: int = 8
    """and all users together at least so many: a median needs 6 for its interval."""
    min_s: float
    """and goes on until this much time has passed."""
    max_s: float
    """No request is sent after this; a request in flight is waited for up to `request_timeout_s`."""
    warmup_max_s: float = 60.0
    """The load is held from the first moment on; measuring begins when it is steady, or after this long, unsteady."""
    ramp_s: float = 0.0
    """The users come one after another, evenly over this time, instead of all at once."""
    request_timeout_s: float = 600.0


class OpenLoop(Record, frozen=True, kw_only=True, tag_field="kind", tag="open"):
    """Requests that come when they come, whether or not the ones before have ended."""

    rates_per_s: tuple[float, ...]
    """Levels, in requests per second. With "ramp" the rate rises evenly from 0 to the level."""
    arrivals: Literal["poisson", "constant", "ramp"] = "poisson"
    duration_s: float
    """Requests are due for this long, warm-up not included."""
    warmup_s: float = 10.0
    """Before it the same load, left out of all figures. A ramp has none."""
    max_in_flight: int = 1000
    """A request that would be one more is not sent and counts as failed: the server is far over its limit."""
    request_timeout_s: float = 600.0


class Replay(Record, frozen=True, kw_only=True, tag_field="kind", tag="replay"):
    """Requests at recorded moments, of recorded lengths: an open loop with one level."""

    trace: str
    """JSONL of `TraceLine`. In a scenario's file the path is relative to that file; here it is absolute."""
    speed: float = 1.0
    """2.0: twice as fast as recorded."""
    max_in_flight: int = 1000
    request_timeout_s: float = 600.0


Load = ClosedLoop | OpenLoop | Replay


class Level(Record, frozen=True, kw_only=True):
    """One load of a scenario: so many users, or so many requests per second; a replay has neither."""

    users: int = 0
    rate_per_s: float | None = None

    @property
    def name(self) -> str:
        """For people and file names: "50", "2.5rps" or "replay"."""
        return f"{self.rate_per_s:g}rps" if self.rate_per_s is not None else str(self.users or "replay")


class TraceLine(Record, frozen=True, kw_only=True):
    """One request of a trace."""

    at_s: float
    """When it is due, from the trace's begin."""
    prompt_words: int
    output_tokens: int
    session: str | None = None
    """Lines of one session are turns of one conversation. A turn whose answer before has not ended yet waits for it."""


class Scenario(Record, frozen=True, kw_only=True):
    """A named load: one TOML file in scenarios/."""

    name: str
    title: str
    workload: Workload
    load: Load

    @property
    def levels(self) -> tuple[Level, ...]:
        """All loads of the scenario, in its order."""
        match self.load:
            case ClosedLoop(users=users):
                return tuple(Level(users=count) for count in users)
            case OpenLoop(rates_per_s=rates):
                return tuple(Level(rate_per_s=rate) for rate in rates)
            case _:
                return (Level(),)

    def at(self, levels: Iterable[Level]) -> "Scenario":
        """The same scenario with these levels; what a run records must be what it did."""
        chosen = tuple(levels)
        match self.load:
            case ClosedLoop():
                load: Load = msgspec.structs.replace(self.load, users=tuple(level.users for level in chosen))
            case OpenLoop():
                rates = tuple(level.rate_per_s for level in chosen if level.rate_per_s is not None)
                load = msgspec.structs.replace(self.load, rates_per_s=rates)
            case _:
                load = self.load
        return msgspec.structs.replace(self, load=load)


class LoadJob(Record, frozen=True, kw_only=True):
    """One cell as a Locust process reads it from a JSON file."""

    url: str
    api: str
    """"openai" (SSE from /v1/chat/completions) or "ollama" (NDJSON from /api/chat)."""
    dialect: str
    """Which extra request fields the server takes: "vllm", "llamacpp", "ollama" or "plain"."""
    model: str
    workload: Workload
    load: Load
    users: int
    """Of a closed loop, all processes together; 0 for the others."""
    rate_per_s: float | None = None
    """The level of an open loop."""
    repeat: int
    seed: int
    is_first: bool = True
    """The level was not measured in this launch before: it may have to compile first, and is warmed up for longer."""
    requests_path: str
    """JSONL of `RequestRecord`; with several processes each appends its index to the stem."""
    client_path: str
    """JSON of `ClientHealth`, written when the load has ended."""


class Fleet(Record, frozen=True, kw_only=True):
    """Machines that send the load in this one's place."""

    bind: str
    """This machine's address, as they reach it."""
    port: int
    workers: int
    hosts: tuple[str, ...] = ()
    """Those that are started over ssh; none where they come by themselves."""


class LoadShare(Record, frozen=True, kw_only=True):
    """The part of a job that one Locust process does, as it reads it from a JSON file."""

    job: LoadJob
    """Of all processes, but with the paths of this one's own records and health."""
    part: int
    """Which process this is, from 0."""
    parts: int
    first_user: int
    users: int
    """Of a closed loop: this process has so many users, numbered from `first_user`."""
