"""A script for vLLM's interpreter: python convert.py MODEL.gguf FOLDER

Unpacks the GGUF file's weights to bfloat16 and writes them with tokenizer, chat template and generation
config to FOLDER, as vLLM loads them. It imports nothing of the harness, since that interpreter has none.

Prints one line of JSON on stdout where it knows why it failed: {"missing": [...]} for packages that this
interpreter lacks, {"wrong": "..."} for a result that must not be used. Anything else ends in a traceback.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "gguf", "accelerate")


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

    gguf = importlib.import_module("gguf").GGUFReader(gguf_path)

    def of_gguf(key: str) -> Any:
        field = gguf.get_field(f"tokenizer.{key}")
        return None if field is None else field.contents()

    saved = transformers.AutoTokenizer.from_pretrained(folder)
    end_tokens = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    if not of_gguf("chat_template"):
        return "the GGUF file has no chat template"
    if saved.chat_template != of_gguf("chat_template"):
        return "the chat template is not the GGUF file's"
    if saved.eos_token_id is None or saved.eos_token_id != of_gguf("ggml.eos_token_id"):
        return f"the end token is {saved.eos_token_id}, in the GGUF file {of_gguf('ggml.eos_token_id')}"
    if end_tokens != saved.eos_token_id:
        return f"generation_config.json ends at {end_tokens}, the tokenizer at {saved.eos_token_id}"
    if not list(folder.glob("*.safetensors")):
        return "no safetensors file was written"
    return ""


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a card may be in use by a measurement
    os.environ["HF_HUB_OFFLINE"] = "1"  # all there is to read is in the GGUF file
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
