"""What a client saw, as one JSON document on stdout: step → result, or how it failed."""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any


def asked() -> dict[str, Any]:
    """What the test wants done: {"url", "chat", …} on stdin."""
    return json.load(sys.stdin)


class Seen:
    """Steps in their order; a failed one is noted and the next one follows."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}
        self._last_s = time.monotonic()

    def step(self, name: str, call: Callable[[], Any]) -> Any:
        """The result as the client gave it; None where it failed."""
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - what a client raises is what we want to see
            self._note(name, failure(error))
            return None
        self._note(name, plain(result))
        return result

    async def astep(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """As `step`, of an async client."""
        try:
            result = await call()
        except Exception as error:  # noqa: BLE001 - what a client raises is what we want to see
            self._note(name, failure(error))
            return None
        self._note(name, plain(result))
        return result

    def _note(self, name: str, what: Any) -> None:
        """Keeps it, and says on stderr how long it took: a test that runs out of time shows that."""
        now_s = time.monotonic()
        sys.stderr.write(f"{now_s - self._last_s:6.1f} s {name}\n")
        self._last_s, self.steps[name] = now_s, what

    def tell(self) -> None:
        sys.stdout.write(json.dumps(self.steps) + "\n")


def failure(error: Exception) -> dict[str, Any]:
    """{"failed": class, "status", "text"}."""
    status = getattr(error, "status_code", None)
    return {"failed": type(error).__name__, "status": status, "text": getattr(error, "error", None) or str(error)}


def plain(value: Any) -> Any:
    """JSON of what clients give: models of pydantic, lists, mappings, plain values."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
