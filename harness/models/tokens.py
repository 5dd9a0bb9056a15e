"""A tokenizer for synthetic models, out of the registry's small GGUF file and in the form of both engines.

All shapes get SmolLM2's, filled up to the size of their vocabulary with tokens that no text gives. It needs no model
hub, and a prompt has as many tokens in every model and on every engine.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf

from harness.errors import ModelUnavailable
from harness.models.convert import metadata

SOURCE: Final = "smollm2-135m"
PRE_TOKENIZER: Final = "smollm"
WORD: Final = re.compile("Ġ[A-Za-z]+")
"""A space and letters: whole text of its own, of which no streamed piece waits for the next."""
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without a system message of its own: Ollama knows this one and has the same among its own templates."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A byte-level BPE vocabulary."""

    texts: tuple[str, ...]
    """By id, in the alphabet that stands for bytes: Ġ is a space."""
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    begin: int
    end: int
    unknown: int

    @property
    def words(self) -> tuple[int, ...]:
        """Ids of plain ASCII words."""
        return tuple(number for number, text in enumerate(self.texts) if WORD.fullmatch(text))


def read(path: Path) -> Tokens:
    """The tokenizer of a GGUF file. Raises: ModelUnavailable where it is of another kind than is written here."""
    keys = metadata(path)
    kind = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre")
    if kind != ("gpt2", PRE_TOKENIZER):
        raise ModelUnavailable(
            f"{path} has a tokenizer of the kind {kind[0]}, {kind[1]}, not SmolLM2's",
            hint=f"remove the file, then: harness models fetch {SOURCE}",
        )
    return Tokens(
        texts=tuple(keys["tokenizer.ggml.tokens"]),
        kinds=tuple(keys["tokenizer.ggml.token_type"]),
        merges=tuple(keys["tokenizer.ggml.merges"]),
        begin=keys["tokenizer.ggml.bos_token_id"],
        end=keys["tokenizer.ggml.eos_token_id"],
        unknown=keys["tokenizer.ggml.unknown_token_id"],
    )


def add_to_gguf(writer: gguf.GGUFWriter, tokens: Tokens, *, vocab: int) -> None:
    """The tokenizer and the chat template, as llama.cpp and Ollama read them."""
    unused = range(len(tokens.texts), vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list([*tokens.texts, *(f"[UNUSED{number}]" for number in unused)])
    writer.add_token_types([*tokens.kinds, *(gguf.TokenType.UNUSED for _ in unused)])
    writer.add_token_merges(tokens.merges)
    writer.add_bos_token_id(tokens.begin)
    writer.add_eos_token_id(tokens.end)
    writer.add_unk_token_id(tokens.unknown)
    writer.add_pad_token_id(tokens.end)
    writer.add_add_bos_token(False)  # noqa: FBT003 - the library's form
    writer.add_add_space_prefix(False)  # noqa: FBT003
    writer.add_chat_template(CHAT_TEMPLATE)


def write_for_hub(folder: Path, tokens: Tokens) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja, as vLLM reads them."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens.texts[tokens.begin],
        "eos_token": tokens.texts[tokens.end],
        "pad_token": tokens.texts[tokens.end],
        "unk_token": tokens.texts[tokens.unknown],
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,  # Hugging Face's word for no limit: the model's own counts
    }
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer_json(tokens), ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _tokenizer_json(tokens: Tokens) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": text, **special}
            for number, (text, kind) in enumerate(zip(tokens.texts, tokens.kinds, strict=True))
            if kind == gguf.TokenType.CONTROL
        ],
        "normalizer": None,
        # llama.cpp's "smollm": each digit alone, then GPT-2's expression
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: number for number, text in enumerate(tokens.texts)},
            "merges": list(tokens.merges),
        },
    }
