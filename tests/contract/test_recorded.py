"""Every exchange that was recorded with the real Ollama, made again with the proxy in front of fake vLLMs.

Status, headers, the form of bodies and every text that does not depend on the model must be the same; what differs is
an entry of deviations.py. Cases are made in the order they were recorded in: later ones see what earlier ones did.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.deviations import DEVIATIONS
from tests.contract.servers import Json, Proxied, Starter, config_folder, objects

RECORDED = [json.loads(line) for line in (Path(__file__).parent / "recorded.jsonl").read_text().splitlines()]
NAMES = [case["name"] for case in RECORDED]

CALL = {"tool_calls": [{"name": "get_current_weather", "arguments": {"location": "Paris"}}]}
THOUGHT = {"reasoning": "Four and four make eight.", "text": "8"}
SCRIPTS: dict[str, Json] = {
    "323-tools-call-forced-stream": CALL,
    "329-tools-v1-forced": CALL,
    "335-think-chat-true-stream": THOUGHT,
    "337-think-chat-unset": THOUGHT,
    "339-think-chat-short": {"reasoning": "Four and four", "text": "", "finish_reason": "length"},
    "341-think-generate-true-stream": THOUGHT,
    "343-think-format-schema-stream": THOUGHT,
}
"""What the model says where the form of the answer follows from it."""

BEFORE: dict[str, list[tuple[str, str, Json]]] = {
    "087-ps-keep_alive-10m": [("POST", "/api/generate", {"model": "smollm2", "keep_alive": "10m"})],
    "089-ps-keep_alive-forever": [("POST", "/api/generate", {"model": "smollm2", "keep_alive": -1})],
    "091-ps-keep_alive-300": [("POST", "/api/generate", {"model": "smollm2", "keep_alive": 300})],
    "095-ps-after-keep_alive-0s": [
        ("POST", "/api/generate", {"model": "smollm2", "prompt": "hi", "keep_alive": "0s"}),
        ("POST", "/api/embed", {"model": "smollm2-embed", "keep_alive": 0}),
        ("POST", "/api/generate", {"model": "smollm2-tools", "keep_alive": 0}),
        ("POST", "/api/generate", {"model": "smollm2-think", "keep_alive": 0}),
        ("POST", "/api/generate", {"model": "smollm2-insert", "keep_alive": 0}),
    ],
    "097-ps-num_ctx-1024": [("POST", "/api/generate", {"model": "smollm2", "options": {"num_ctx": 1024}})],
    "193-tags-after-copy": [("POST", "/api/copy", {"source": "smollm2", "destination": "smollm2-copy"})],
    "201-show-created": [
        ("POST", "/api/create", {
            "model": "smollm2-sys", "from": "smollm2", "system": "You are a parrot.",
            "parameters": {"num_ctx": 2048, "stop": ["END"], "temperature": 0.1},
        }),
    ],
    "207-delete-created2": [("POST", "/api/create", {"model": "smollm2-sys2", "from": "smollm2", "system": "Hi."})],
}  # fmt: skip
"""What was asked between two recorded cases; not recorded itself."""

FILL_IN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
COMPARED_HEADERS = ("content-type", "allow", "location", "access-control-allow-origin", "vary")
OF_THE_MODEL = re.compile(r"\.(response|content|text|thinking|context|template|modelfile|parameters|license)$")
OPEN = re.compile(r"\.(model_info|arguments)$")


def request_headers(case: Json) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in case["request_headers"])


def made(proxy: Proxied, case: Json) -> httpx.Response:
    for method, path, body in BEFORE.get(case["name"], []):
        proxy.http.request(method, path, json=body).raise_for_status()
    content = case["request_body"]
    headers = {"content-type": "", **{name.lower(): value for name, value in request_headers(case).items()}}
    if not headers["content-type"]:
        del headers["content-type"]
    return proxy.http.request(
        case["method"], case["path"], content=content.encode() if content is not None else None, headers=headers
    )


@pytest.fixture(scope="module")
def answers(start: Starter) -> dict[str, httpx.Response]:
    """Case → what the proxy answers to it."""
    root = str(config_folder(start.folder / "SmolLM2-135M-Instruct"))
    flags = ("--root", root, "--max-model-len", "512")
    servers = {
        "smollm2": start.fake("--model", "smollm2", *flags),
        "smollm2-embed": start.fake(
            "--model", "smollm2-embed", "--kind", "embed", "--root", root, "--max-model-len", "256",
            "--embedding-length", "576",
        ),
        "smollm2-tools": start.fake("--model", "smollm2-tools", "--tool-parser", "llama3_json", *flags),
        "smollm2-think": start.fake("--model", "smollm2-think", "--reasoning-parser", "qwen3", *flags),
        "smollm2-insert": start.fake(
            "--model", "smollm2-insert", "--max-model-len", "512", "--root",
            str(config_folder(start.folder / "insert", special_tokens=FILL_IN)),
        ),
    }  # fmt: skip
    capabilities = {
        "smollm2": "completion",
        "smollm2-embed": "embedding",
        "smollm2-tools": "completion,tools",
        "smollm2-think": "completion,thinking",
        "smollm2-insert": "completion,insert",
    }
    words = [word for name, server in servers.items() for word in ("--upstream", f"{name}={server.url}")]
    words += [word for name, can in capabilities.items() for word in ("--capabilities", f"{name}={can}")]
    proxy = start.proxy(*words, "--state-dir", str(start.folder / "aliases"))
    found = {}
    for case in RECORDED:
        if case["name"] in SCRIPTS:
            model = json.loads(case["request_body"])["model"]
            servers[model].script(SCRIPTS[case["name"]])
        found[case["name"]] = made(proxy, case)
    return found


def differences(case: Json, answer: httpx.Response) -> Iterator[str]:
    """What a client could tell the two answers apart by, one line each: `where: recorded, ours`."""
    if case["status"] != answer.status_code:
        yield f"status: {case['status']}, {answer.status_code} {answer.text[:200]}"
        return
    for name in COMPARED_HEADERS:
        if case["headers"].get(name) != answer.headers.get(name):
            yield f"header.{name}: {case['headers'].get(name)}, {answer.headers.get(name)}"
    if case["method"] == "HEAD" or case["body"] is None:
        return
    kind = case["headers"].get("content-type", "")
    if "ndjson" in kind:
        yield from stream_differences(objects(case["body"]), objects(answer.text))
    elif "event-stream" in kind:
        yield from event_differences(case["body"], answer.text)
    elif kind.startswith("application/json"):
        recorded = json.loads(case["body"])
        is_exact = case["status"] >= 400 and not case["path"].startswith("/v1/")
        yield from shape_differences(recorded, answer.json(), "body", is_exact=is_exact)
    elif case["body"] != answer.text:
        yield f"body: {case['body']!r}, {answer.text!r}"


def stream_differences(recorded: list[Json], ours: list[Json]) -> Iterator[str]:
    """The lines before the last against the keys that all, and any, of the recorded ones have; the last by itself."""
    if not any("done" in line for line in recorded):
        yield from progress_differences(recorded, ours)
        return
    if [line.get("done") for line in ours] != [False] * (len(ours) - 1) + [True]:
        yield f"lines: n not done and the last done, {[line.get('done') for line in ours]}"
        return
    yield from shape_differences(recorded[-1], ours[-1], "last", is_exact=False)
    always = set.intersection(*(set(line) for line in recorded[:-1]))
    ever = set.union(*(set(line) for line in recorded[:-1]))
    for n, line in enumerate(ours[:-1]):
        if not always <= set(line) <= ever:
            yield f"line.{n}: {sorted(always)}…{sorted(ever)}, {sorted(line)}"
    said = {key for line in recorded for key in line.get("message", ())}
    says = {key for line in ours for key in line.get("message", ())}
    if said != says:
        yield f"message keys: {sorted(said)}, {sorted(says)}"


def progress_differences(recorded: list[Json], ours: list[Json]) -> Iterator[str]:
    """The last line of what pull, push or create report: a success, or the text of an error."""
    if set(recorded[-1]) != set(ours[-1]) or recorded[-1].get("status") != ours[-1].get("status"):
        yield f"last: {recorded[-1]}, {ours[-1]}"


def event_differences(recorded: str, ours: str) -> Iterator[str]:
    """The keys of the first event's data, and whether [DONE] ends it."""
    if recorded.endswith("[DONE]\n\n") != ours.endswith("[DONE]\n\n"):
        yield f"end: {recorded[-20:]!r}, {ours[-20:]!r}"
    first, our_first = (json.loads(re.search(r"^data: (\{.*\})$", text, re.M)[1]) for text in (recorded, ours))  # type: ignore[index]
    yield from (f"event.{name}: missing" for name in sorted(set(first) - set(our_first)))


def shape_differences(recorded: Any, ours: Any, where: str, *, is_exact: bool) -> Iterator[str]:
    """Keys and JSON types, recursively; values too where they do not depend on the model."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        if OPEN.search(where):
            return
        is_v1 = {"object", "usage", "choices"} & set(recorded) or where.startswith("v1")
        for name in sorted(set(recorded) - set(ours)):
            yield f"{where}.{name}: missing"
        for name in sorted(set(ours) - set(recorded)):
            if not is_v1:
                yield f"{where}.{name}: added"
        for name in sorted(set(recorded) & set(ours)):
            inner = f"v1.{name}" if is_v1 else f"{where}.{name}"
            yield from shape_differences(recorded[name], ours[name], inner, is_exact=is_exact)
    elif isinstance(recorded, list) and isinstance(ours, list):
        if bool(recorded) != bool(ours):
            yield f"{where}: {len(recorded)} items, {len(ours)} items"
        if recorded and not OF_THE_MODEL.search(where):
            for one in ours:
                yield from shape_differences(recorded[0], one, f"{where}[]", is_exact=is_exact)
    elif json_type(recorded) != json_type(ours):
        yield f"{where}: {json_type(recorded)}, {json_type(ours)}"
    elif recorded != ours and (is_exact or is_told(where)):
        yield f"{where}: {recorded!r}, {ours!r}"


def is_told(where: str) -> bool:
    """Whether a value is the request's own or the protocol's, not the model's."""
    return where.endswith((".model", ".role", ".done")) and not where.startswith(("body.models[]", "v1"))


def json_type(value: object) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def excused(case: str, difference: str) -> bool:
    where = difference.partition(": ")[0]
    return any(fnmatchcase(case, it.case) and fnmatchcase(where, it.where) for it in DEVIATIONS)


@pytest.mark.parametrize("case", RECORDED, ids=NAMES)
def test_the_proxy_answers_as_ollama_was_recorded_to(case: Json, answers: dict[str, httpx.Response]) -> None:
    found = [it for it in differences(case, answers[case["name"]]) if not excused(case["name"], it)]
    assert not found, "\n".join(dict.fromkeys(found))


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda it: f"{it.case} {it.where}")
def test_a_deviation_that_is_listed_is_there(deviation: Any, answers: dict[str, httpx.Response]) -> None:
    told = [
        difference
        for case in RECORDED
        if fnmatchcase(case["name"], deviation.case)
        for difference in differences(case, answers[case["name"]])
    ]
    assert any(fnmatchcase(it.partition(": ")[0], deviation.where) for it in told), "remove it, here and in the README"


def test_every_deviation_stands_in_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "proxy" / "README.md").read_text(encoding="utf-8")
    missing = {deviation.case for deviation in DEVIATIONS if f"[`{deviation.case}`]" not in readme}
    assert not missing


@pytest.mark.parametrize(
    ("recorded", "ours"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {}),
        ({}, {"a": 1}),
        ({"a": []}, {"a": [1]}),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1}, {"c": 1}]}),
        ({"a": True}, {"a": 1}),
        ({"message": {"role": "assistant"}}, {"message": {"role": "user"}}),
    ],
)
def test_the_comparison_sees_a_difference(recorded: Json, ours: Json) -> None:
    assert list(shape_differences(recorded, ours, "body", is_exact=False))
    assert not list(shape_differences(recorded, recorded, "body", is_exact=False))


def test_the_comparison_sees_a_stream_that_ends_twice() -> None:
    line, last = {"done": False}, {"done": True}
    assert list(stream_differences([line, last], [line, last, last]))
    assert not list(stream_differences([line, line, last], [line, last]))
