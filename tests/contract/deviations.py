"""Where the proxy does not answer as the real Ollama was recorded to, and why. proxy/README.md lists the same.

`case` and `where` are patterns (fnmatch): of a case's name, and of what differs, as test_recorded.py prints it. An
entry that no longer matches anything fails a test: it is to be removed here and in the README.
"""

from typing import NamedTuple


class Deviation(NamedTuple):
    """What differs, and the reason."""

    case: str
    where: str
    why: str


FOR_CLIENTS = "clients that look for it in /api/show find it; Ollama tells it in /api/tags only"
RELAYED = "/v1 is vLLM's own answer, relayed byte for byte"

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation("*-show*", "body.tensors", "vLLM does not list the tensors of its weights"),
    Deviation("*-show*", "body.model", FOR_CLIENTS),
    Deviation("*-show*", "body.size", FOR_CLIENTS),
    Deviation("*-show*", "body.digest", FOR_CLIENTS),
    Deviation("051-*", "body.error", "what a grammar cannot do is told in vLLM's words, not llama.cpp's"),
    Deviation("063-*", "status", "num_predict 0: vLLM stops where the model ends; llama.cpp ran on until cut off"),
    Deviation("1*-long-*no-truncate", "body.error", "a prompt that is too long is refused in vLLM's words"),
    Deviation(
        "203-*", "body.error", "nothing is ever pulled, so no network is missed: as for a file that is not there"
    ),
    Deviation("*-v1-*stream*", "header.content-type", f"charset added: {RELAYED}"),
    Deviation("*-v1-*stream*", "event.system_fingerprint", f"in the last event only: {RELAYED}"),
    Deviation("329-*", "v1.content", f"null beside tool calls: {RELAYED}"),
    Deviation("329-*", "v1.tool_calls[[]].index", f"only streamed calls have one: {RELAYED}"),
)

LIVE: tuple[Deviation, ...] = (
    Deviation("GET /api//tags *", "status", "a doubled slash is another path; Ollama redirects"),
    Deviation("GET /api/show/ *", "status", "a slash too many redirects whatever the method"),
    Deviation("GET /api/tags/ *", "*", "a redirect without a page that says so"),
    Deviation("GET /api/experimental/* *", "body.recommendations", "none: nothing can be pulled"),
    Deviation("POST /api/create *files*", "*", "weights are vLLM's: no model is made from files"),
    Deviation("POST /api/create *{}*", "body.error", "as above"),
)
"""The same for what test_against_ollama.py asks of a running Ollama; `case` is method, path and body."""
