"""A script for vLLM's interpreter: python convert.py MODEL.gguf FOLDER

Unpacks the GGUF file's weights to bfloat16 and writes them with tokenizer, chat template and generation
config to FOLDER, as vLLM loads them. It imports nothing of the harness, since that interpreter has none.

Prints one line of JSON on stdout where it knows why it failed: {"missing": [...]} for packages that this
interpreter lacks, {"wrong": "..."} for a result that must not be used. Anything else ends in a traceback.
"""

import importlib.util
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "gguf", "accelerate")
GGUF_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
GGUF_STRING, GGUF_ARRAY = 8, 9


def main(gguf_path: Path, folder: Path) -> int:
    """Exit status: 0 FOLDER is whole, 1 it is not."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(json.dumps({"missing": missing}))  # noqa: T201 - this script's answer to whoever started it
        return 1
    convert(gguf_path, folder)
    wrong = fault(gguf_path, folder)
    if wrong:
        print(json.dumps({"wrong": wrong}))  # noqa: T201
    return 1 if wrong else 0


def convert(gguf_path: Path, folder: Path) -> None:
    """Writes the model to `folder`."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source: dict[str, Any] = {"gguf_file": gguf_path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
        **source,
    )
    model.save_pretrained(folder)  # with generation_config.json, made from the GGUF's special tokens
    transformers.AutoTokenizer.from_pretrained(gguf_path.parent, **source).save_pretrained(folder)


def fault(gguf_path: Path, folder: Path) -> str:
    """What makes the model in `folder` another one than the GGUF file's; empty where nothing does.

    Engines that build different prompts, or stop at different tokens, cannot be compared.
    """
    import transformers

    wanted = metadata(gguf_path)
    template, end = wanted.get("tokenizer.chat_template"), wanted.get("tokenizer.ggml.eos_token_id")
    saved = transformers.AutoTokenizer.from_pretrained(folder)
    end_of_generation = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    if not template:
        return "the GGUF file has no chat template"
    if saved.chat_template != template:
        return "the chat template is not the GGUF file's"
    if end is None or saved.eos_token_id != end:
        return f"the end token is {saved.eos_token_id}, in the GGUF file {end}"
    if end_of_generation != end:
        return f"generation_config.json ends at {end_of_generation}, the GGUF file at {end}"
    if not list(folder.glob("*.safetensors")):
        return "no safetensors file was written"
    return ""


def metadata(gguf_path: Path) -> dict[str, Any]:
    """All keys and values before the tensors.

    Read by the format's definition (ggml/docs/gguf.md, versions 2 and 3) and not by the library that
    transformers converts with: a check must not share its errors, and this takes 0.1 s where that takes 2 s.
    """
    with gguf_path.open("rb") as file:

        def number(code: str) -> Any:
            return struct.unpack(f"<{code}", file.read(struct.calcsize(code)))[0]

        def text() -> str:
            return file.read(number("Q")).decode(errors="replace")

        def value(kind: int) -> Any:
            if kind == GGUF_STRING:
                return text()
            if kind == GGUF_ARRAY:
                item, count = number("I"), number("Q")
                return [value(item) for _ in range(count)]
            return number(GGUF_NUMBERS[kind])

        file.seek(len("GGUF"))
        version, _tensors, pairs = number("I"), number("Q"), number("Q")
        if version not in (2, 3):
            raise ValueError(f"{gguf_path}: GGUF version {version} is not known")
        return {text(): value(number("I")) for _ in range(pairs)}


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a card may be in use by a measurement
    os.environ["HF_HUB_OFFLINE"] = "1"  # all there is to read is in the GGUF file
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
