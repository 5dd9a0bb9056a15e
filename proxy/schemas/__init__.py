"""Request bodies of Ollama's API, decoded by msgspec, and by Go's rules where msgspec refuses.

A field that is absent or null has its Go zero value, or None where Ollama tells absent from zero. Unknown fields are
passed over. What is refused is refused with Ollama's text, see `gojson`; what only we refuse: the caps in `requests`.
"""

from proxy.schemas.decoding import decoded
from proxy.schemas.forms import duration_s, parsed_keep_alive
from proxy.schemas.openapi import body_schema, openapi_body
from proxy.schemas.options import IMAGE_KINDS, OPTION_TYPES, checked_options, image_mime
from proxy.schemas.requests import (
    MAX_CONTEXT_IDS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    MAX_VALUES,
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    PullRequest,
    PushRequest,
    Request,
    ShowRequest,
    ToolCall,
    ToolFunction,
)

__all__ = [
    "IMAGE_KINDS",
    "MAX_CONTEXT_IDS",
    "MAX_IMAGES",
    "MAX_IMAGE_BYTES",
    "MAX_INPUTS",
    "MAX_MESSAGES",
    "MAX_STOPS",
    "MAX_TOOLS",
    "MAX_VALUES",
    "OPTION_TYPES",
    "ChatRequest",
    "CopyRequest",
    "CreateRequest",
    "DeleteRequest",
    "EmbedRequest",
    "EmbeddingsRequest",
    "GenerateRequest",
    "Message",
    "PullRequest",
    "PushRequest",
    "Request",
    "ShowRequest",
    "ToolCall",
    "ToolFunction",
    "body_schema",
    "checked_options",
    "decoded",
    "duration_s",
    "image_mime",
    "openapi_body",
    "parsed_keep_alive",
]
