"""Requests that nobody would write, an HTTP client that sends anything, and what every answer to them must keep to."""

from tests.contract.fuzzing.bodies import OLLAMA_BODIES, OPENAI_BODIES
from tests.contract.fuzzing.requests import bodied, mutated, odd_requests
from tests.contract.fuzzing.rules import CRASHED, check, check_upstream
from tests.contract.fuzzing.wire import Answered, Asked, Client

__all__ = [
    "CRASHED",
    "OLLAMA_BODIES",
    "OPENAI_BODIES",
    "Answered",
    "Asked",
    "Client",
    "bodied",
    "check",
    "check_upstream",
    "mutated",
    "odd_requests",
]
