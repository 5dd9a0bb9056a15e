"""The requests of Ollama's API as records, and how large they may be."""

from typing import Final, TypeVar

import msgspec

from proxy.errors import OllamaError

# ---------------------------------------------------------------------------------------------------------------------
# Caps: more than anybody sends, little enough to bound one request's work

MAX_VALUES: Final = 2_000_000
"""Of one body, as `gojson.most_values` counts: 64 MiB of `{},` would otherwise become gigabytes."""
MAX_MESSAGES: Final = 10_000
MAX_TOOLS: Final = 512
MAX_INPUTS: Final = 10_000
MAX_CONTEXT_IDS: Final = 2**21
MAX_STOPS: Final = 256
MAX_IMAGES: Final = 64
MAX_IMAGE_BYTES: Final = 32 * 2**20


# ---------------------------------------------------------------------------------------------------------------------
# The requests


class ToolFunction(msgspec.Struct, frozen=True, kw_only=True):
    """What an assistant called."""

    index: int = 0
    name: str = ""
    arguments: dict[str, object] = {}


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call within an assistant's message."""

    id: str = ""
    function: ToolFunction = ToolFunction()


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a chat; `role` in lower case, images as the bytes they are."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[bytes] = []
    tool_calls: list[ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/generate"""

    model: str = ""
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = []
    stream: bool | None = None
    raw: bool = False
    format: msgspec.Raw | None = None
    """As it was sent; None for absent, null and ""."""

    keep_alive: float | None = None
    """Seconds, `math.inf` for ever, 0.0 to unload."""

    images: list[bytes] = []
    options: dict[str, object] = {}
    """As they were sent: `checked_options` is called when Ollama would, after the model was found."""

    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/chat; fields as in `GenerateRequest`."""

    model: str = ""
    messages: list[Message] = []
    stream: bool | None = None
    format: msgspec.Raw | None = None
    keep_alive: float | None = None
    tools: list[dict[str, object]] = []
    options: dict[str, object] = {}
    think: bool | str | None = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embed"""

    model: str = ""
    input: msgspec.Raw | None = None
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: float | None = None
    options: dict[str, object] = {}


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embeddings"""

    model: str = ""
    prompt: str = ""
    keep_alive: float | None = None
    options: dict[str, object] = {}


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A request for one model, under either of two names for its name."""

    model: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """The model's name as the client spelled it; `name`, the older field, counts where `model` is empty."""
        return self.model or self.name


class PullRequest(Named, frozen=True, kw_only=True):
    """POST /api/pull"""

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class PushRequest(Named, frozen=True, kw_only=True):
    """POST /api/push"""

    insecure: bool = False
    username: str = ""
    password: str = ""
    stream: bool | None = None


class ShowRequest(Named, frozen=True, kw_only=True):
    """POST /api/show"""

    system: str = ""
    template: str = ""
    verbose: bool = False
    options: dict[str, object] = {}


class CreateRequest(Named, frozen=True, kw_only=True):
    """POST /api/create"""

    stream: bool | None = None
    quantize: str = ""
    draft_quantize: str = ""
    from_: str = msgspec.field(default="", name="from")
    remote_host: str = ""
    files: dict[str, str] = {}
    draft_files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: object = None
    """A text or a list of texts; not checked, as Ollama does not."""

    system: str = ""
    parameters: dict[str, object] = {}
    messages: list[Message] = []
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    info: dict[str, object] = {}
    quantization: str = ""


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/copy"""

    source: str = ""
    destination: str = ""


class DeleteRequest(Named, frozen=True, kw_only=True):
    """DELETE /api/delete"""


Request = (
    GenerateRequest
    | ChatRequest
    | EmbedRequest
    | EmbeddingsRequest
    | PullRequest
    | PushRequest
    | ShowRequest
    | CreateRequest
    | CopyRequest
    | DeleteRequest
)
T = TypeVar("T", bound=Request)


def at_most(count: int, most: int, what: str) -> None:
    """Raises OllamaError where there are more than that."""
    if count > most:
        raise OllamaError(400, f"too many {what}: {count}, at most {most} are taken")
