"""vLLM V1's scheduler, step by step: who gets how many tokens, who waits, who is preempted. It knows no clock.

Each step, decoding sequences get one token each, then prompts under way their next piece, then those that wait are let
in, first come first served, all within the budget of tokens. When blocks run out, the sequence that was let in last
gives up its own and is computed again later. vLLM goes through the running sequences in the order in which they were
let in; here those that decode come first. The two differ only with `long_prefill_tokens`, in steps whose budget is
spent: then vLLM may leave out a sequence that was let in after a long prompt.

Sequences that decode are not touched in a step: each has one token more after it, so they are counted, and when one of
them ends is known when it begins. A step's cost is that of what changes in it.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from harness.records import Record
from harness.simulation.blocks import BlockPool, Key, Segment, block_keys


class Limits(Record, frozen=True, kw_only=True):
    """What rules a scheduler, after all defaults."""

    batched_tokens: int
    """Of one step, all sequences together."""
    sequences: int
    """Running at a time."""
    context_tokens: int
    """Of one sequence, prompt and answer."""
    blocks: int
    block_tokens: int = 16
    long_prefill_tokens: int = 0
    """A prompt gets no more in one step. 0: no limit."""
    is_chunked: bool = True
    has_prefix_cache: bool = True


class Sequence:
    """One request in the engine."""

    def __init__(self, name: object, segments: tuple[Segment, ...], *, answer: object, output_tokens: int) -> None:
        self.name, self.segments = name, segments
        self.answer_name = answer
        """What its answer is called in prompts that repeat it."""
        self.prompt_tokens = sum(segment.tokens for segment in segments)
        self.output_tokens = output_tokens
        self.computed = 0
        """Tokens in the KV cache; while it decodes, those at the step in which it began to."""
        self.generated = 0
        """Output tokens before the current stretch of decoding."""
        self.cached_tokens = 0
        """Of the prompt, found in the prefix cache when it was let in."""
        self.preemptions = 0
        self.spans: list[tuple[int, int]] = []
        """Steps, from and to before, each of which gave one output token."""
        self.since: int | None = None
        """First step of the current span. None: it does not decode."""
        self.keys: list[Key] = []
        self.blank = 0
        """Blocks that it holds without a key."""

    @property
    def target(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.prompt_tokens + self.generated

    @property
    def whole(self) -> tuple[Segment, ...]:
        """The prompt with what is known of the answer."""
        return (*self.segments, Segment(self.answer_name, self.generated))


class Prefill(NamedTuple):
    """A piece of a prompt in one step."""

    sequence: Sequence
    tokens: int
    context_tokens: int
    """Computed before this piece."""
    is_last: bool


class Step(NamedTuple):
    """What one step does."""

    decoding: int
    """Sequences that get one token more."""
    context_tokens: int
    """In the KV cache of those, together."""
    prefills: list[Prefill]
    preempted: list[Sequence]

    @property
    def tokens(self) -> int:
        """All that go through the model."""
        return self.decoding + sum(piece.tokens for piece in self.prefills)

    @property
    def sampled(self) -> int:
        """Sequences that get an output token."""
        return self.decoding + sum(piece.is_last for piece in self.prefills)


class Scheduler:
    """Give it sequences, then call `schedule` and `commit` in turn."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.blocks)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """In the order in which they were let in."""
        self.number = 0
        """Of the step that comes next."""
        self.preemptions = 0
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._prefilling: list[Sequence] = []
        self._decoding = 0
        self._context_tokens = 0
        self._phases = [0] * limits.block_tokens
        self._ends: dict[int, list[Sequence]] = {}

    # ---------------------------------------------------------------- in and out

    def refusal(self, sequence: Sequence) -> str | None:
        """Why vLLM would not take it, in its words. None: it would."""
        longest = self.limits.context_tokens
        if sequence.prompt_tokens + sequence.output_tokens <= longest:
            return None
        return (
            f"This model's maximum context length is {longest} tokens. However, you requested {sequence.output_tokens} "
            f"output tokens and your prompt contains {sequence.prompt_tokens} input tokens, for a total of "
            f"{sequence.prompt_tokens + sequence.output_tokens} tokens."
        )

    def add(self, sequence: Sequence) -> None:
        """It waits from now on."""
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Its client has gone."""
        if sequence in self.running:
            self._leave(sequence)
        else:
            self.waiting.remove(sequence)

    @property
    def is_idle(self) -> bool:
        """Nobody wants anything."""
        return not self.running and not self.waiting

    # ---------------------------------------------------------------- one step

    def schedule(self) -> Step:
        """What the next step does; blocks for it are held from now on."""
        preempted = self._make_room()
        self.pool.take(self._decode_blocks())
        budget = self.limits.batched_tokens - self._decoding
        prefills: list[Prefill] = []
        for sequence in self._prefilling:
            piece = self._piece(sequence, budget)
            if piece is None:
                break
            prefills.append(piece)
            budget -= piece.tokens
        if not preempted:
            while budget > 0 and self.waiting and len(self.running) < self.limits.sequences:
                piece = self._let_in(self.waiting[0], budget)
                if piece is None:
                    break
                prefills.append(piece)
                budget -= piece.tokens
        return Step(self._decoding, self._context_tokens + self._decoding, prefills, preempted)

    def commit(self, step: Step) -> list[Sequence]:
        """The step is done. Returns the sequences whose answer it ended."""
        self._context_tokens += self._decoding
        done_number = self.number
        self.number += 1
        ended = self._ends.pop(done_number, [])
        for sequence in ended:
            self._leave(sequence)
        for sequence, tokens, _, is_last in step.prefills:
            sequence.computed += tokens
            if not is_last:
                continue
            self._prefilling.remove(sequence)
            self._begin_to_decode(sequence, first_step=done_number)
            if sequence.generated + 1 == sequence.output_tokens:
                self._leave(sequence)
                ended.append(sequence)
        return ended

    # ---------------------------------------------------------------- decoding

    def _begin_to_decode(self, sequence: Sequence, *, first_step: int) -> None:
        """Its prompt gave a token in `first_step`; from the step after that on it gets one in each."""
        sequence.since = first_step
        self._decoding += 1
        self._context_tokens += sequence.computed
        self._phases[(sequence.computed - first_step - 1) % self.limits.block_tokens] += 1
        last = first_step + sequence.output_tokens - sequence.generated - 1
        if last > first_step:
            self._ends.setdefault(last, []).append(sequence)

    def _stop_decoding(self, sequence: Sequence) -> None:
        """Settles what has come since it began to."""
        assert sequence.since is not None
        steps = self.number - sequence.since
        last = sequence.since + sequence.output_tokens - sequence.generated - 1
        if last in self._ends:  # preempted or aborted before its end
            self._ends[last].remove(sequence)
        self._phases[(sequence.computed - sequence.since - 1) % self.limits.block_tokens] -= 1
        sequence.spans.append((sequence.since, self.number))
        first_computed = sequence.computed
        sequence.computed += steps - 1
        sequence.generated += steps
        blocks = self._blocks(sequence.computed) - self._blocks(first_computed)
        sequence.blank += blocks
        self._decoding -= 1
        self._context_tokens -= sequence.computed
        sequence.since = None

    def _decode_blocks(self) -> int:
        """How many decoding sequences have filled their last block, and need one more for their next token."""
        return self._phases[-self.number % self.limits.block_tokens]

    def _make_room(self) -> list[Sequence]:
        """Preempts those that were let in last, until the others, and the oldest prompt under way, can go on."""
        preempted: list[Sequence] = []
        while self._decode_blocks() + self._blocks_of_oldest_prompt() > self.pool.free:
            latest = self.running[-1]
            if latest in self._prefilling[:1] and self._decode_blocks() <= self.pool.free:
                break
            self._leave(latest)
            latest.computed = 0
            latest.preemptions += 1
            self.preemptions += 1
            self.waiting.appendleft(latest)
            preempted.append(latest)
        return preempted

    # ---------------------------------------------------------------- prompts

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def _blocks_of_oldest_prompt(self) -> int:
        """What the prompt under way that was let in first takes of blocks in this step."""
        if not self._prefilling:
            return 0
        oldest = self._prefilling[0]
        tokens = self._piece_tokens(oldest, self.limits.batched_tokens - self._decoding)
        return self._blocks(oldest.computed + tokens) - self._blocks(oldest.computed)

    def _piece_tokens(self, sequence: Sequence, budget: int) -> int:
        rest = sequence.target - sequence.computed
        return min(rest, budget, self.limits.long_prefill_tokens or rest)

    def _piece(self, sequence: Sequence, budget: int) -> Prefill | None:
        """The next piece of a prompt. None: no budget or no blocks are left for it."""
        tokens = self._piece_tokens(sequence, budget)
        blocks = self._blocks(sequence.computed + tokens) - self._blocks(sequence.computed)
        if tokens <= 0 or blocks > self.pool.free:
            return None
        self.pool.take(blocks)
        sequence.blank += blocks
        self._keep(sequence, sequence.computed + tokens)
        return Prefill(sequence, tokens, sequence.computed, sequence.computed + tokens == sequence.target)

    def _let_in(self, sequence: Sequence, budget: int) -> Prefill | None:
        """The first piece of the prompt that waits longest. None: it has to wait on.

        vLLM lets a prompt in only where there are blocks for all of it (--scheduler-reserve-full-isl).
        """
        hits = self._hits(sequence)
        cached = len(hits) * self.limits.block_tokens
        rest = sequence.target - cached
        if not self.limits.is_chunked and rest > budget:
            return None
        if self._blocks(sequence.target) - len(hits) + self.pool.idle(hits) > self.pool.free:
            return None
        self.waiting.popleft()
        self.pool.hold(hits)
        sequence.keys, sequence.blank, sequence.computed = hits, 0, cached
        if not sequence.preemptions:
            sequence.cached_tokens = cached
            self.queried_tokens += sequence.prompt_tokens
            self.hit_tokens += cached
        self.running.append(sequence)
        self._prefilling.append(sequence)
        return self._piece(sequence, budget)

    def _hits(self, sequence: Sequence) -> list[Key]:
        """Its leading blocks that are in the prefix cache; its last token is always computed."""
        if not self.limits.has_prefix_cache:
            return []
        most = (sequence.target - 1) // self.limits.block_tokens
        return self.pool.found(self._keys(sequence, most))

    def _keys(self, sequence: Sequence, blocks: int, *, first: int = 0) -> Iterator[Key]:
        return block_keys(sequence.whole, block_tokens=self.limits.block_tokens, blocks=blocks, first=first)

    def _keep(self, sequence: Sequence, computed: int) -> None:
        """Full blocks of its first `computed` tokens may be found by others: vLLM says so when it schedules them."""
        if not self.limits.has_prefix_cache:
            return
        fresh = self.pool.keep(self._keys(sequence, computed // self.limits.block_tokens, first=len(sequence.keys)))
        sequence.keys += fresh
        sequence.blank -= len(fresh)

    # ---------------------------------------------------------------- leaving

    def _leave(self, sequence: Sequence) -> None:
        """It runs no more; its full blocks stay in the prefix cache as long as nobody needs them."""
        if sequence.since is not None:
            self._stop_decoding(sequence)
        else:
            self._prefilling.remove(sequence)
        self._keep(sequence, sequence.computed)
        self.pool.release(sequence.keys, blank=sequence.blank)
        sequence.keys, sequence.blank = [], 0
        self.running.remove(sequence)
