"""What data sheets allow a model on a card, before anything is measured: for `harness predict`.

Nothing here is a forecast. `roofline` says what each bound assumes.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from harness import config, roofline
from harness.errors import UsageError
from harness.records import GpuProfile, ModelEntry, Record, Target
from harness.roofline import MemoryPlan, Roof, Work

NOTE: Final = (
    "predicted, not measured: ceilings from data sheets and the model's shape, which engines stay well below; "
    "no forecast, and not valid with speculative decoding"
)
BASELINE_PRECISION: Final = "q4_k_m"
"""What Ollama gives people who never chose a precision."""
NARROW = 0.85
"""A target that takes more than this share of its time even at the ceiling is called barely reachable: engines get
about 0.6 to 0.8 of a card's bandwidth at one user."""
LANE_BYTES_S: Final = {"gen3": 0.985e9, "gen4": 1.969e9, "gen5": 3.938e9}
"""PCI Express, one lane in one direction, after its line code."""


class LevelCeiling(Record, frozen=True, kw_only=True):
    """One number of users: what all of them at once cost, and what one answer and all answers can be at best."""

    users: int
    fits: bool
    """Whether the KV cache has room for all of them at a time."""
    decode_step_s: float
    """Least time of a step that gives each user a token."""
    decode_tok_s: float
    """Tokens per second at most while nothing but such steps is done."""
    prefill_s: float
    """Least time for everybody's prompt, all in one batch."""
    prefill_tok_s: float
    ttft_s: float
    """At least, as the two below, for a request that is alone on the card."""
    itl_s: float
    e2e_s: float
    mean_e2e_s: float
    """At least, with all of these users: see `roofline.mean_e2e_s`."""
    output_tok_s: float
    """At most, prompts included."""
    bound_by: str
    """What limits a decode step: "memory" or "arithmetic"."""


class TargetReach(Record, frozen=True, kw_only=True):
    """One row of targets.toml against the ceilings."""

    name: str
    scenario: str
    users: int
    output_tok_s: float
    e2e_s: float
    """Of an answer with so many users at least, at the mean; the target's median is taken for no less, as if users
    were served alike."""
    absolute_s: float | None
    """None: no time is asked."""
    is_set_for_this: bool
    """The time was set for this card and model."""
    is_reachable: bool | None
    """None: no time is asked."""
    metric: str
    target_ratio: float
    baseline_limit: float
    """Of `metric`: a baseline that is better than this makes the ratio unreachable."""
    text: str


class Against(Record, frozen=True, kw_only=True):
    """Ollama with one user on the same card, by ceilings alone."""

    precision: str
    output_tok_s: float
    ours_tok_s: float
    target_ratio: float
    baseline_limit_tok_s: float
    text: str


class Prediction(Record, frozen=True, kw_only=True):
    """The whole answer of `harness predict`."""

    note: str = NOTE
    is_measured: bool = False
    gpu: str
    gpu_title: str
    gpu_source: str
    is_predict_only: bool
    """harness launches no engine on this card."""
    model: str
    model_title: str
    precision: str
    flop_s: float
    bandwidth_bytes_s: float
    prompt_tokens: int
    output_tokens: int
    context_tokens: int
    """Of one sequence, for the memory plan."""
    memory: MemoryPlan
    memory_text: str
    cannot_run: str = ""
    """Why the model does not run on this card as asked, with what would; then nothing else is predicted. Empty: it
    runs."""
    load_s: float | None
    """Least time to bring the weights to the card. None: no link is known."""
    levels: tuple[LevelCeiling, ...]
    """Empty where it does not run."""
    targets: tuple[TargetReach, ...]
    """Empty where it does not run: none is reachable."""
    against: Against | None
    """None: these weights are Ollama's own, or it does not run."""


def prediction(
    profile: GpuProfile,
    model: ModelEntry,
    *,
    precision: str,
    context_tokens: int | None,
    users: Sequence[int],
    prompt_tokens: int,
    output_tokens: int,
) -> Prediction:
    """Raises: UsageError where the card has no figures, or the model's context is too short for what is asked."""
    at = roofline.roof(profile, model.shape, precision)
    plan = roofline.memory_plan(profile, model.shape, precision)
    if at is None or plan is None:
        raise UsageError(
            f"{profile.name} has no data-sheet figures to predict from",
            hint=f"name a card: {', '.join(cards_with_figures())}",
        )
    longest = model.shape.max_context_tokens
    context = longest if context_tokens is None else context_tokens
    if max(context, prompt_tokens + output_tokens) > longest:
        raise UsageError(
            f"{model.name} has a context of {longest:,} tokens, and {max(context, prompt_tokens + output_tokens):,} "
            "are asked for",
            hint="lower --context, --prompt-tokens or --output-tokens",
        )
    work = roofline.cold(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    # Without --context the model's own is only what the memory plan tells of: a shorter one is a setting away.
    needed = max(prompt_tokens + output_tokens, context_tokens or 0)
    refusal = cannot_run(plan, profile, model, precision=precision, context_tokens=needed)
    return Prediction(
        gpu=profile.name,
        gpu_title=profile.title,
        gpu_source=profile.source,
        is_predict_only=profile.is_predict_only,
        model=model.name,
        model_title=model.title,
        precision=precision,
        flop_s=at.flop_s,
        bandwidth_bytes_s=at.bandwidth_bytes_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        context_tokens=context,
        memory=plan,
        memory_text=memory_text(plan, profile, model, precision=precision, context_tokens=context),
        cannot_run=refusal,
        load_s=load_s(profile, plan.weights_bytes),
        levels=() if refusal else tuple(level_ceiling(at, work, plan=plan, users=count) for count in users),
        targets=(
            () if refusal else tuple(target_reach(at, row, profile=profile, model=model) for row in config.targets())
        ),
        against=(
            None
            if refusal or precision in roofline.GGUF_PRECISIONS
            else against(at, work, profile=profile, model=model, precision=precision)
        ),
    )


def cards_with_figures() -> list[str]:
    """Names of the profiles that a prediction can be made from."""
    return [name for name, profile in config.gpu_profiles().items() if profile.bandwidth_bytes_s and profile.flops_bf16]


# ---------------------------------------------------------------- memory


def memory_text(
    plan: MemoryPlan, profile: GpuProfile, model: ModelEntry, *, precision: str, context_tokens: int
) -> str:
    """Whether one sequence of this context fits, and else by how much it does not and what would."""
    if plan.sequences(context_tokens):
        count = plan.sequences(context_tokens)
        return f"a context of {context_tokens:,} tokens fits {count:,} {'time' if count == 1 else 'times'} at once"
    need = plan.missing_bytes(context_tokens) / roofline.GIB
    if plan.kv_cache_bytes < 0:
        over = -plan.kv_cache_bytes / roofline.GIB
        said = f"does not fit: the weights alone are {over:.1f} GiB too many"
    else:
        wanted = context_tokens * plan.kv_token_bytes / roofline.GIB
        said = (
            f"does not fit: a context of {context_tokens:,} tokens wants {wanted:.1f} GiB of KV cache, "
            f"{need:.1f} GiB more than there is"
        )
    ways = [f"a context of {plan.longest_tokens:,} tokens or less"] if plan.longest_tokens else []
    ways += other_weights(profile, model, precision, context_tokens=context_tokens)
    return f"{said}; what would fit: {', or '.join(ways) or 'no precision that is known here'}"


def cannot_run(plan: MemoryPlan, profile: GpuProfile, model: ModelEntry, *, precision: str, context_tokens: int) -> str:
    """Why one sequence of this length has no room beside the weights, and what would have; empty where it has."""
    if plan.sequences(context_tokens):
        return ""
    held = plan.weights_bytes + plan.reserve_bytes + context_tokens * plan.kv_token_bytes
    needed = held * plan.memory_bytes / plan.usable_bytes
    ways = [f"a context of {plan.longest_tokens:,} tokens or less"] if plan.longest_tokens else []
    ways += other_weights(profile, model, precision, context_tokens=context_tokens)
    if larger := larger_cards(profile, model, precision, context_tokens=context_tokens):
        ways.append(f"a larger card ({', '.join(larger)})")
    return (
        f"cannot run: needs {needed / roofline.GIB:.1f} GiB, card has {plan.memory_bytes / roofline.GIB:.1f} GiB "
        f"({plan.weights_bytes / roofline.GIB:.1f} GiB of {precision} weights, room for {context_tokens:,} tokens, and "
        f"what {plan.engine} needs besides); what would fit: {', or '.join(ways) or 'nothing that is known here'}"
    )


def larger_cards(profile: GpuProfile, model: ModelEntry, precision: str, *, context_tokens: int) -> list[str]:
    """Names of the cards that engines are launched on, and that have the room, the smallest first."""
    found = []
    for name, other in config.gpu_profiles().items():
        plan = None if other.is_predict_only else roofline.memory_plan(other, model.shape, precision)
        if plan is not None and other.name != profile.name and plan.sequences(context_tokens):
            found.append((plan.memory_bytes, name))
    return [name for _, name in sorted(found)]


def other_weights(profile: GpuProfile, model: ModelEntry, precision: str, *, context_tokens: int) -> list[str]:
    """Other precisions of the same engine that leave room for one sequence, if need be for a shorter one."""
    is_gguf = precision in roofline.GGUF_PRECISIONS
    held = roofline.weights(model.shape, precision).total_bytes
    ways = []
    for name in roofline.PRECISIONS:
        plan = roofline.memory_plan(profile, model.shape, name)
        is_kin = (name in roofline.GGUF_PRECISIONS) == is_gguf
        if plan is None or not is_kin or plan.weights_bytes >= held or not plan.longest_tokens:
            continue
        shorter = "" if plan.sequences(context_tokens) else f" with a context of {plan.longest_tokens:,} tokens or less"
        ways.append(f"{name} weights{shorter}")
    return ways


def load_s(profile: GpuProfile, weights_bytes: float) -> float | None:
    """Least time for the weights over the card's link."""
    generation, _, width = profile.pcie.partition(" x")
    if generation not in LANE_BYTES_S:
        return None
    return weights_bytes / (LANE_BYTES_S[generation] * int(width))


# ---------------------------------------------------------------- ceilings


def level_ceiling(at: Roof, work: Work, *, plan: MemoryPlan, users: int) -> LevelCeiling:
    """All bounds at one number of users."""
    context = work.decode_context
    step_s = roofline.decode_step_s(at, users=users, context_tokens=context)
    arithmetic_s = users * roofline.token_flop(at, context) / at.flop_s
    prefill_s = roofline.pass_s(at, moved_bytes=at.read_bytes, flop=users * roofline.prefill_flop(at, work))
    return LevelCeiling(
        users=users,
        fits=plan.sequences(int(work.prompt_tokens + work.output_tokens)) >= users,
        decode_step_s=step_s,
        decode_tok_s=users / step_s,
        prefill_s=prefill_s,
        prefill_tok_s=users * work.prompt_tokens / prefill_s,
        bound_by="arithmetic" if arithmetic_s >= step_s else "memory",
        mean_e2e_s=roofline.mean_e2e_s(at, work, users=users),
        **roofline.ceilings(at, work, users=users),
    )


def target_reach(at: Roof, target: Target, *, profile: GpuProfile, model: ModelEntry) -> TargetReach:
    """A target against the ceilings of its scenario; a prompt word counts as one token, the least it can be.

    Whole answers are judged with all users at work, by the mean (see `roofline.mean_e2e_s`): a lone request is faster
    than any of many can be on average.
    """
    asked = config.scenario(target.scenario, is_cpu=False).workload
    work = roofline.cold(prompt_tokens=asked.prompt_words, output_tokens=asked.output_tokens)
    found = roofline.ceilings(at, work, users=target.users)
    found["e2e_s"] = roofline.mean_e2e_s(at, work, users=target.users)
    name, _, _ = target.metric.partition(".")
    is_rate = name == "output_tok_s"
    limit = found[name] / target.target_ratio if is_rate else found[name] * target.target_ratio
    is_reachable = None if target.absolute_s is None else found["e2e_s"] <= target.absolute_s
    of_card = (target.gpu, target.model) == (profile.name, model.name)
    reach = TargetReach(
        name=target.name,
        scenario=target.scenario,
        users=target.users,
        output_tok_s=found["output_tok_s"],
        e2e_s=found["e2e_s"],
        absolute_s=target.absolute_s,
        is_set_for_this=of_card,
        is_reachable=is_reachable,
        metric=target.metric,
        target_ratio=target.target_ratio,
        baseline_limit=limit,
        text="",
    )
    return msgspec.structs.replace(reach, text=target_text(reach, target))


def target_text(reach: TargetReach, target: Target) -> str:
    """Reachable or not, with the figures."""
    if target.absolute_s is None:
        first = f"no time is asked; at most {reach.output_tok_s:,.0f} tok/s"
    else:
        share = reach.e2e_s / target.absolute_s
        word = "unreachable" if share > 1 else "barely reachable" if share > NARROW else "reachable"
        part = f"{share:.2g} times that" if share > 1 else f"{share:.0%} of it"
        first = f"{word}: {target.absolute_s:g} s asked, {least_text(reach)} ({part})"
        if not reach.is_set_for_this:
            first += f", but the time was set for {target.model} on {target.gpu}"
    limit = (
        f"gives over {reach.baseline_limit:,.0f} tok/s"
        if reach.metric == "output_tok_s"
        else f"takes under {reach.baseline_limit:.3f} s"
    )
    return f"{first}; {target.target_ratio:g}x is unreachable where the baseline {limit}"


def least_text(reach: TargetReach) -> str:
    """The least time of an answer; with several users the mean, and what must hold for it to bound a median."""
    if reach.users == 1:
        return f"no answer takes under {reach.e2e_s:.3f} s"
    return (
        f"with {reach.users} users the mean answer takes no less than {reach.e2e_s:.3f} s, nor does the median where "
        "all are served alike"
    )


def against(at: Roof, work: Work, *, profile: GpuProfile, model: ModelEntry, precision: str) -> Against:
    """Both ceilings at one user, and how slow Ollama must be for the first target to be within ours."""
    theirs = roofline.roof(profile, model.shape, BASELINE_PRECISION)
    assert theirs is not None
    ratio = min(target.target_ratio for target in config.targets() if target.users == 1)
    ours_tok_s = roofline.ceilings(at, work, users=1)["output_tok_s"]
    their_tok_s = roofline.ceilings(theirs, work, users=1)["output_tok_s"]
    limit = ours_tok_s / ratio
    return Against(
        precision=BASELINE_PRECISION,
        output_tok_s=their_tok_s,
        ours_tok_s=ours_tok_s,
        target_ratio=ratio,
        baseline_limit_tok_s=limit,
        text=(
            f"at one user {precision} gives at most {ours_tok_s:,.0f} tok/s, Ollama's {BASELINE_PRECISION} at most "
            f"{their_tok_s:,.0f}: "
            f"{ratio:g}x is reachable only where Ollama gets no more than {limit:,.0f} tok/s, "
            f"{limit / their_tok_s:.0%} of its own ceiling"
        ),
    )
