"""What the server tells of itself at GET /times."""

import msgspec

from harness.engines import talk
from harness.engines.reference.plan import Fault


class Sent(msgspec.Struct, kw_only=True):
    """What the server did for one request: a line of GET /times. Seconds of time.perf_counter."""

    prompt_start: str
    """The first characters of the last message: prompts begin with a nonce, so it names the request."""
    received_s: float
    prompt_tokens: int
    tokens: int = 0
    """Tokens sent so far."""
    chunks_s: list[float] = []
    """Just before each chunk with text was written (a split one: before its last part). The first is the
    first token. Empty for an answer that is not streamed."""
    end_s: float | None = None
    """Just before the last bytes were written. None: still under way, or broken off."""
    fault: Fault | None = None
    """What was done wrong on purpose. None: nothing."""


def times(url: str) -> list[Sent]:
    """What the reference engine at `url` has done so far, in the order in which requests came."""
    with talk.client(url, timeout_s=60.0) as http:
        answer = http.get("/times").raise_for_status()
    return [msgspec.json.decode(line, type=Sent) for line in answer.content.splitlines()]
