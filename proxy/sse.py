"""Server-sent events, as far as vLLM uses them: one `data:` line an event."""

from proxy.errors import UpstreamBroke

MAX_LINE_BYTES = 16 * 2**20


class EventSplitter:
    """Bytes in any pieces → the data of every whole event."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The `data` of each event that `data` completes; comments, other fields and blank lines are dropped.

        Splits at LF alone: JSON may hold U+2028 and U+0085 raw, which `str.splitlines` would cut at. Raises
        UpstreamBroke where a line grows beyond reason.
        """
        if self._rest:
            data = self._rest + data
        elif data.endswith(b"}\n\n") and data.startswith(b"data: ") and data.find(b"\n") == len(data) - 2:
            return [data[6:-2]]  # one event, whole: what a read mostly brings
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise UpstreamBroke("the model server's answer has a line that is too long")
        # JSON does not mind the blank after the colon nor a CR at the end; `[DONE]` does.
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
