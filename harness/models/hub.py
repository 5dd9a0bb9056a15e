"""A script for vLLM's interpreter: python hub.py OWNER/MODEL

Downloads what vLLM loads of a model on Hugging Face into the hub's own cache, where vLLM finds it. It
imports nothing of the harness, since that interpreter has none.

Prints one line of JSON on stdout where it failed: {"why": ..., "text": ...}, with `why` one of "missing"
(no huggingface_hub), "gated", "denied", "unknown" (no such model), "network" and "other".
"""

import importlib
import json
import sys

WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
LEFT_OUT = ["original/*"]  # Meta's own format, as large as the safetensors


def main(hf_id: str) -> int:
    """Exit status: 0 it is all there, 1 it is not."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        return failed("missing", error)
    try:
        hub.snapshot_download(hf_id, allow_patterns=WANTED, ignore_patterns=LEFT_OUT)
    except Exception as error:  # noqa: BLE001 - the hub raises its HTTP library's errors, and changed that library once
        return failed(reason(error), error)
    return 0


def reason(error: BaseException) -> str:
    """Why a download failed, by the names of the hub's exceptions and the HTTP status.

    Where the hub cannot be asked it looks into its cache and says "not found there"; what had happened
    is the cause of that exception.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds:
        return "gated"
    if status in (401, 403) and "RepositoryNotFoundError" not in kinds:
        return "denied"
    if "RepositoryNotFoundError" in kinds:
        return "unknown"
    if "LocalEntryNotFoundError" in kinds and error.__cause__ is not None:
        return reason(error.__cause__)
    if status is None and kinds & {"ConnectionError", "OfflineModeIsEnabled", "TransportError", "Timeout"}:
        return "network"
    return "other"


def failed(why: str, error: BaseException) -> int:
    """Says why on stdout. Returns: the exit status."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(json.dumps({"why": why, "text": text}))  # noqa: T201 - this script's answer to whoever started it
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
