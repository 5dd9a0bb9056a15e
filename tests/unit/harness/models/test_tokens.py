"""The tokenizer of synthetic models, out of a GGUF file and into both forms."""

import json

import gguf
import pytest

from harness.errors import ModelUnavailable
from harness.models import tokens
from tests.fakes.toy_model import CONTROL, OTHERS, TEXTS, TOKENS, WORDS

VOCAB = len(TEXTS) + 5


def gguf_file(path, *, vocab=VOCAB, pre=None):
    writer = gguf.GGUFWriter(path, "llama")
    tokens.add_to_gguf(writer, TOKENS, vocab=vocab)
    if pre:
        writer.kv_data[0]["tokenizer.ggml.pre"].value = pre
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def keys_of(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_a_tokenizer_is_read_as_it_was_written(tmp_path):
    assert tokens.read(gguf_file(tmp_path / "a.gguf", vocab=len(TEXTS))) == TOKENS


def test_the_vocabulary_is_filled_up_with_tokens_that_no_text_gives(tmp_path):
    keys = keys_of(gguf_file(tmp_path / "a.gguf"))
    assert len(keys["tokenizer.ggml.tokens"]) == len(set(keys["tokenizer.ggml.tokens"])) == VOCAB
    assert keys["tokenizer.ggml.tokens"][: len(TEXTS)] == list(TEXTS)
    assert keys["tokenizer.ggml.token_type"][-5:] == [5] * 5  # LLAMA_TOKEN_TYPE_UNUSED
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert keys["tokenizer.ggml.add_bos_token"] is False


def test_a_file_with_another_kind_of_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelUnavailable, match="gpt2, qwen2"):
        tokens.read(gguf_file(tmp_path / "a.gguf", pre="qwen2"))


def test_words_are_a_space_and_letters():
    assert [TOKENS.texts[number] for number in TOKENS.words] == list(WORDS)
    assert not {"Ġcafé", "Ġ1", "Ġa1", "Ġ-", "Ġ", "word"} & set(WORDS)
    assert {"Ġcafé", "Ġ1", "Ġa1", "Ġ-", "Ġ", "word"} <= set(OTHERS)


def test_vllm_and_llama_cpp_get_the_same_template_and_the_same_end(tmp_path):
    keys = keys_of(gguf_file(tmp_path / "a.gguf"))
    tokens.write_for_hub(tmp_path, TOKENS)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (tmp_path / "chat_template.jinja").read_text() == keys["tokenizer.chat_template"] == tokens.CHAT_TEMPLATE
    assert config["eos_token"] == keys["tokenizer.ggml.tokens"][keys["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_the_hubs_file_has_every_token_and_merge_and_knows_the_special_ones(tmp_path):
    tokens.write_for_hub(tmp_path, TOKENS)
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    assert found["model"]["vocab"] == {text: number for number, text in enumerate(TEXTS)}
    assert found["model"]["merges"] == ["Ġ a"]
    assert [one["content"] for one in found["added_tokens"]] == list(CONTROL)
    assert all(one["special"] for one in found["added_tokens"])
