"""Every answer that is not a success, as Ollama words it: a status and the text of `{"error": text}`.

OllamaError                any status and text
├── ModelNotFound          404
├── ServerBusy             503  too many requests at once; Ollama's own text
├── UpstreamUnreachable    502  vLLM does not answer at all
├── UpstreamNotReady       503  vLLM answers, but has not loaded its model yet or is being started again
├── UpstreamRefused        the status vLLM's maps to, with vLLM's message
└── UpstreamBroke          500  vLLM went away, or stopped making sense, within an answer
"""


class OllamaError(Exception):
    """A request that ends with `status` and the body `{"error": text}`."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class ModelNotFound(OllamaError):
    """No model of that name is served; `name` is printed as the client spelled it."""

    def __init__(self, name: str) -> None:
        super().__init__(404, f"model '{name}' not found")


class ServerBusy(OllamaError):
    """More requests than the proxy admits at once."""

    def __init__(self) -> None:
        super().__init__(503, "server busy, please try again.  maximum pending requests exceeded")


class UpstreamUnreachable(OllamaError):
    """Nothing listens where vLLM should; the text names no address."""

    def __init__(self) -> None:
        super().__init__(502, "the model server cannot be reached: is vLLM running?")


class UpstreamNotReady(OllamaError):
    """vLLM is starting, or being started again."""

    def __init__(self) -> None:
        super().__init__(503, "the model is still being loaded, please try again")


class UpstreamRefused(OllamaError):
    """vLLM answered with an error of its own."""


def unreachable(*, is_supervised: bool) -> OllamaError:
    """What a client is told where nothing answers: a supervised vLLM is on its way, any other may never come."""
    return UpstreamNotReady() if is_supervised else UpstreamUnreachable()


class UpstreamBroke(OllamaError):
    """The answer ended, or stopped making sense, before it was whole.

    Ollama's words where its own engine dies within an answer (recorded).
    """

    def __init__(self, text: str = "an error was encountered while running the model: unexpected EOF") -> None:
        super().__init__(500, text)
