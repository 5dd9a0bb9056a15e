"""What Locust's processes write: one record for each request, and how the client itself fared."""

from harness.records.base import Record


class RequestRecord(Record, frozen=True, kw_only=True):
    """One request as the client saw it; times in seconds on the client's monotonic clock."""

    user: int
    """Unique over all processes. In an open loop each arrival, in a replay each conversation is a user of its own."""
    index: int
    """How many requests this user had sent before, warm-up included."""
    is_warmup: bool
    due_s: float | None = None
    """When an open loop wanted it sent. None: a closed loop, which sends when it can."""
    sent_s: float
    end_s: float
    chunks_s: tuple[float, ...] = ()
    """Arrival of each chunk that carried text. Empty for an answer that was not streamed."""
    headers_s: float | None = None
    """None: no response ever came."""
    prompt_tokens: int | None = None
    """As the server counted them. None: it did not say."""
    output_tokens: int | None = None
    """As the server counted them. None: it did not say."""
    asked_tokens: int | None = None
    """The most that the request asked for."""
    finish_reason: str | None = None
    """Why the answer ended, in the server's words. None: it did not say."""
    error: str | None = None
    """What went wrong, in words. None: nothing did."""
    status: int | None = None
    """HTTP status. None: no response ever came."""

    turn: int = 0
    """Which turn of its conversation it was, from 0."""
    connect_s: float | None = None
    """How long it waited, before `sent_s`, for a new connection because the server had closed the one before: in a
    closed loop that is in no latency. None: the connection stood."""

    @property
    def began_s(self) -> float:
        """What latencies count from: the moment it was due, or else was sent. A queue in our client is a wait too."""
        return self.sent_s if self.due_s is None else self.due_s

    @property
    def ttft_s(self) -> float | None:
        """From the begin to the first chunk that carries text; a role alone is no answer yet."""
        return self.chunks_s[0] - self.began_s if self.chunks_s else None

    @property
    def e2e_s(self) -> float:
        """From the begin to the end of the answer."""
        return self.end_s - self.began_s

    @property
    def tpot_s(self) -> float | None:
        """(E2E − TTFT) / (output tokens − 1), as vLLM defines it."""
        if self.ttft_s is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)


class ClientHealth(Record, frozen=True, kw_only=True):
    """Whether the measuring client was itself the limit, for one cell and over all its processes."""

    cpu_ratio: float
    """CPU seconds of the busiest client process per second of measured load; 1.0 is a full core."""
    cpu_ratios: tuple[float, ...] = ()
    """The same of each process."""
    lag_p50_s: float
    """How late the event loop woke up from a short sleep."""
    lag_p99_s: float
    lag_max_s: float = 0.0
    """How long it stood still at a stretch."""
    send_lag_p50_s: float | None = None
    """How much later than due (open loop), or than the end of the answer before (closed loop), requests were sent."""
    send_lag_p99_s: float | None = None
    rtt_p50_s: float | None = None
    """Time to connect to the server, before the load: one round trip. None: it was not measured."""
    started_s: float
    """When measuring began: requests sent (or due) before are warm-up."""
    stopped_s: float
    """When the first user had nothing more to send, or the last request was due: from here on the load is less."""
    ended_s: float
    """When the last answer had ended."""
    warmup_s: float = 0.0
    """From the first request to `started_s`."""
    is_steady: bool | None = None
    """Whether the level had become steady by `started_s`. None: it was not looked at."""
    requests: int = 0
    """Requests that were begun, warm-up included: as many records must be there."""
    wall_step_s: float = 0.0
    """How far the wall clock moved against the monotonic one, which all times are on."""
    suspended_s: float = 0.0
    """How long the machine slept meanwhile."""
    clock_error_s: float | None = None
    """How far off the clock of another machine may be on which a part of the load ran. None: all ran on this one."""
    processes: int = 1


class LoadResult(Record, frozen=True, kw_only=True):
    """What one cell's load came to."""

    records: tuple[RequestRecord, ...]
    """All requests of all users, warm-up and failures included, in the order in which they ended."""
    health: ClientHealth | None
    """None: there was trouble."""
    trouble: str = ""
    """What happened to our own client, so that the records are not all there: no figure may come from them."""
