"""`harness predict`: what it says, in words and in JSON, and what it refuses."""

import json

import msgspec
import pytest

from harness import config, models, predict
from harness.cli import machine, main
from harness.cli.predict import lines
from harness.errors import UsageError


def predicted(gpu: str = "rtx4090", model: str = "qwen2.5-1.5b", **changes: object) -> predict.Prediction:
    asked: dict[str, object] = {
        "precision": "bf16", "context_tokens": None, "users": (1, 50), "prompt_tokens": 192, "output_tokens": 128,
    }  # fmt: skip
    return predict.prediction(config.gpu_profile(gpu), models.entry(model), **{**asked, **changes})


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the whole command."""
    with pytest.raises(SystemExit) as ended:
        main(["predict", *words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


# ---------------------------------------------------------------- what is said


def test_every_part_says_that_nothing_was_measured() -> None:
    text = lines(predicted())
    assert text[0].startswith("predicted, not measured")
    heads = [line for line in text if line and not line.startswith(" ")][3:]
    assert len(heads) == 4  # memory, ceilings, targets, Ollama
    assert all("(predicted, not measured)" in head for head in heads)


def test_the_sequential_target_of_the_planning_document_is_barely_within_the_cards_bandwidth() -> None:
    """0.2 s for 64 tokens on an RTX 4090 with Qwen2.5 1.5B in bf16: 3.09 GB a token at 1,008 GB/s are 0.196 s."""
    row = {row.name: row for row in predicted().targets}["sequential"]
    assert row.is_reachable
    assert row.is_set_for_this
    assert 0.18 < row.e2e_s < 0.2
    assert row.text.startswith("barely reachable: 0.2 s asked")


def test_a_target_under_the_least_time_is_unreachable_with_the_figure() -> None:
    """The same for Llama 3.1 8B: 64 tokens at 15.0 GB each are 0.95 s."""
    row = {row.name: row for row in predicted(model="llama-3.1-8b").targets}["sequential"]
    assert row.is_reachable is False
    assert row.e2e_s == pytest.approx(0.95, abs=0.02)
    assert "unreachable: 0.2 s asked, no answer takes under 0.9" in row.text
    assert "the time was set for qwen2.5-1.5b on rtx4090" in row.text


def test_a_target_without_a_time_is_neither() -> None:
    row = {row.name: row for row in predicted().targets}["concurrent-50"]
    assert row.is_reachable is None
    assert row.text.startswith("no time is asked; at most")
    assert row.baseline_limit == pytest.approx(row.output_tok_s / 2)


def test_every_target_is_judged() -> None:
    assert [row.name for row in predicted().targets] == [row.name for row in config.targets()]


def test_twice_ollama_at_one_user_is_out_of_reach_for_16_bits_against_4() -> None:
    """On an RTX 4090 with Llama 3.1 8B: 67 against 220 tok/s; Ollama gets 125 to 150 of these."""
    found = predicted(model="llama-3.1-8b", prompt_tokens=1, output_tokens=2).against
    assert found is not None
    assert found.ours_tok_s == pytest.approx(67, abs=1)
    assert found.output_tok_s == pytest.approx(222, abs=3)
    assert found.baseline_limit_tok_s == pytest.approx(found.ours_tok_s / 2)
    assert found.baseline_limit_tok_s < 125
    assert "2x is reachable only where Ollama gets no more than 34 tok/s, 15% of its own ceiling" in found.text


def test_ollamas_own_weights_are_not_compared_with_themselves() -> None:
    assert predicted(precision="q4_k_m").against is None
    assert not any("Against" in line for line in lines(predicted(precision="q4_k_m")))


def test_what_does_not_fit_is_told_by_how_much_and_with_what_would() -> None:
    text = predicted(model="llama-3.1-8b").memory_text
    assert text.startswith("does not fit: a context of 131,072 tokens wants 16.0 GiB of KV cache, 10.3 GiB more")
    assert "what would fit: a context of 46,736 tokens or less" in text
    assert "int4 weights with a context of" in text
    weights = predicted("rtx4060", "llama-3.1-8b").memory_text
    assert weights.startswith("does not fit: the weights alone are 9.0 GiB too many; what would fit: int4 weights")
    assert "fp8 weights" not in weights


def test_a_model_that_does_not_fit_the_card_has_no_rates_and_no_targets() -> None:
    """Llama 3.1 8B in bf16 is 15 GiB; an RTX 4060 has 8."""
    found = predicted("rtx4060", "llama-3.1-8b")
    assert found.cannot_run.startswith("cannot run: needs 17.")
    assert "GiB, card has 8.0 GiB" in found.cannot_run
    assert "int4 weights" in found.cannot_run
    assert "a larger card (" in found.cannot_run
    assert "rtx4090" in found.cannot_run
    assert "m3max" not in found.cannot_run, "no engine is launched there"
    assert (found.levels, found.targets, found.against) == ((), (), None)
    text = "\n".join(lines(found))
    assert "tok/s" not in text
    assert "reachable" not in text
    assert found.cannot_run in text


def test_weights_that_leave_no_room_for_the_request_itself_cannot_run_either() -> None:
    tight = predicted(model="llama-3.1-8b", prompt_tokens=60_000)
    assert tight.cannot_run.startswith("cannot run: needs")
    assert "what would fit: a context of 46,736 tokens or less" in tight.cannot_run
    asked = predicted(model="llama-3.1-8b", context_tokens=60_000)
    assert asked.cannot_run.startswith("cannot run: needs")


def test_a_model_whose_own_context_does_not_fit_runs_with_a_shorter_one() -> None:
    found = predicted(model="llama-3.1-8b")
    assert found.memory_text.startswith("does not fit")
    assert found.cannot_run == ""
    assert found.levels


def test_a_target_of_many_users_is_judged_by_what_all_of_them_can_have() -> None:
    """Little's law: five users, each of whom always waits for 128 tokens."""
    row = {row.name: row for row in predicted(model="llama-3.1-8b").targets}["concurrent-5"]
    assert row.e2e_s == pytest.approx(5 * 128 / row.output_tok_s)
    assert "with 5 users the mean answer takes no less than" in row.text
    assert "where all are served alike" in row.text


def test_many_users_on_a_small_card_take_longer_on_average_than_one() -> None:
    found = predicted("l4", users=(1, 1000))
    one, many = found.levels
    assert one.mean_e2e_s == pytest.approx(one.e2e_s)
    assert many.e2e_s == one.e2e_s
    assert many.mean_e2e_s > 5 * many.e2e_s


def test_what_fits_is_told_with_how_often() -> None:
    found = predicted(model="llama-3.1-8b", context_tokens=8192)
    assert found.memory_text == "a context of 8,192 tokens fits 5 times at once"
    once = predicted(model="llama-3.1-8b", context_tokens=32_768)
    assert once.memory_text == "a context of 32,768 tokens fits 1 time at once"


def test_a_level_that_does_not_fit_in_memory_is_marked() -> None:
    found = predicted(model="llama-3.1-8b", users=(1, 1000))
    assert [level.fits for level in found.levels] == [True, False]
    assert [("not all fit" in line) for line in lines(found) if line.endswith(("memory", "arithmetic", "once"))][
        -2:
    ] == [False, True]  # fmt: skip


@pytest.mark.parametrize(("users", "limit"), [(1, "memory"), (1000, "arithmetic")])
def test_what_limits_a_step_is_said(users: int, limit: str) -> None:
    found = predicted("l4", users=(users,), prompt_tokens=8, output_tokens=8)
    assert found.levels[0].bound_by == limit


def test_loading_takes_at_least_the_time_of_the_link() -> None:
    """16.06 GB over 16 lanes of the fourth generation, 31.5 GB/s."""
    assert predicted(model="llama-3.1-8b").load_s == pytest.approx(0.51, abs=0.01)
    assert predicted("m3max").load_s is None


def test_a_card_that_no_engine_is_launched_on_can_be_predicted_and_says_so() -> None:
    found = predicted("m3max")
    assert found.memory.engine == "Ollama"
    assert "  harness launches no engine on this card" in lines(found)
    assert "  harness launches no engine on this card" not in lines(predicted())


@pytest.mark.parametrize("gpu", predict.cards_with_figures())
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-3.1-8b", "synth-qwen2.5-1.5b"])
def test_every_card_and_model_can_be_predicted(gpu: str, model: str) -> None:
    for precision in ("bf16", "fp8", "int4", "q4_k_m", "q8_0", "f16"):
        assert lines(predicted(gpu, model, precision=precision))


# ---------------------------------------------------------------- the command


def test_json_is_one_document_that_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--gpu", "rtx4090", "--model", "llama-3.1-8b", "--users", "1,5", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["is_measured"] is False
    assert document["note"].startswith("predicted, not measured")
    assert [level["users"] for level in document["levels"]] == [1, 5]
    assert document["memory"]["kv_token_bytes"] == 131_072
    assert {row["name"] for row in document["targets"]} >= {"sequential", "concurrent-5", "concurrent-50", "streaming"}
    assert msgspec.convert(document, predict.Prediction).gpu == "rtx4090"


def test_a_model_that_cannot_run_is_a_verdict_with_its_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--gpu", "rtx4060", "--model", "llama-3.1-8b", "--json")
    document = json.loads(out)
    assert code == 10
    assert document["cannot_run"].startswith("cannot run")
    assert document["levels"] == []
    code, out, _ = run(capsys, "--gpu", "rtx4060", "--model", "llama-3.1-8b")
    assert code == 10
    assert "cannot run: needs" in out


def test_the_default_load_is_that_of_the_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--gpu", "h100", "--model", "synth-qwen2.5-1.5b")
    workload = config.scenario("concurrent", is_cpu=False).workload
    assert code == 0
    assert f"{workload.prompt_words} prompt and {workload.output_tokens} output tokens a request" in out
    assert [line.split()[0] for line in out.splitlines() if "tok/s  " in line] == ["1", "5", "10", "50", "100"]


@pytest.mark.parametrize("alias", ["llama3.1:8b", "meta-llama/Llama-3.1-8B-Instruct"])
def test_a_model_may_be_named_as_on_either_side(capsys: pytest.CaptureFixture[str], alias: str) -> None:
    documents = [run(capsys, "--gpu", "rtx4090", "--model", name, "--json")[1] for name in (alias, "llama-3.1-8b")]
    assert documents[0] == documents[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "rtx4080", "--model", "qwen2.5-1.5b"], "no GPU profile is called 'rtx4080'"),
        (["--gpu", "rtx4090", "--model", "gpt"], "no model is called 'gpt'"),
        (["--gpu", "cpu", "--model", "qwen2.5-1.5b"], "cpu has no data-sheet figures"),
        (["--model", "qwen2.5-1.5b"], "Missing option '--gpu'"),
        (["--gpu", "rtx4090"], "Missing option '--model'"),
        (["--gpu", "rtx4090", "--model", "qwen2.5-1.5b", "--precision", "q2"], "'q2' is not one of"),
        (["--gpu", "rtx4090", "--model", "qwen2.5-1.5b", "--context", "40000"], "context of 32,768 tokens, and 40,000"),
        (["--gpu", "rtx4090", "--model", "qwen2.5-1.5b", "--prompt-tokens", "32768"], "32,896 are asked for"),
        (["--gpu", "rtx4090", "--model", "qwen2.5-1.5b", "--output-tokens", "0"], "0 is not in the range"),
    ],
)
@pytest.mark.parametrize("is_json", [False, True])
def test_what_cannot_be_predicted_is_refused_with_a_reason(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str, is_json: bool
) -> None:
    code, out, err = run(capsys, *words, *(["--json"] if is_json else []))
    assert code == 2
    assert message in err
    assert (json.loads(out)["error"]["exit_code"] == 2) if is_json else (out == "")


@pytest.mark.parametrize("command", ["tune", "bench", "serve"])
def test_a_card_without_engines_is_refused_where_one_is_to_be_launched(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = ["--engine", "vllm"] if command == "bench" else []
    with pytest.raises(SystemExit) as ended:
        main([command, "--gpu", "m3max", *words])
    assert ended.value.code == 2
    assert "harness launches no engine on Apple M3 Max" in capsys.readouterr().err


def test_a_card_without_engines_is_not_offered_to_a_card_without_a_profile() -> None:
    with pytest.raises(UsageError) as caught:
        config.profile_of_card("Tesla T4")
    assert "m3max" not in caught.value.hint
    with pytest.raises(UsageError, match="launches no engine"):
        machine.profile_for("m3max")
