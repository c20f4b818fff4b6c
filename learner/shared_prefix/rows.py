"""Rows, the learner's training unit: one prompt with its clip, and every response to it.

    TraceGroup -> Row with rewards -> Row with advantages    (GRPO; learner/objective/credit.py)
    prompt + target -> Row                                   (supervised: one response, weight 1)

A row keeps all responses of a group behind one prompt, so that the clip's vision tower and the
prompt are computed once per group (shared prefix). Rows are plain values and cross process borders.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from wire.token_arrays import Logprobs, TokenIds
from wire.types import Prompt, TraceGroup

_FEW = 4  # responses of a small group


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Tokens after a prompt.

    Example:
        Response(token_ids=TokenIds((5, 2)), rollout_logprobs=Logprobs((-0.25, -0.5)))
    """

    token_ids: TokenIds
    advantage: float = 1.0
    """GRPO's advantage; the weight of the sample in supervised training."""
    rollout_logprobs: Logprobs | None = None
    """Logprobs as the engine sampled them; None in supervised training."""
    old_logprobs: Logprobs | None = None
    """The trainer's own logprobs, before the step's first update; None: those of the forward pass
    itself."""
    ref_logprobs: Logprobs | None = None
    """The reference model's logprobs, where a KL coefficient asks for them."""
    reward: float | None = None
    """The reward that the advantage is made of; None in supervised training."""
    temperature: float = 1.0
    """Of the distribution that its logprobs, the ratios and the entropy are of: the sampling
    temperature in GRPO, 1 in supervised training."""
    truncated: bool = False
    """Whether it was cut at the length limit."""
    trains: bool = True
    """False: a filler that keeps ranks in step and counts nothing."""

    @property
    def num_trained(self) -> int:
        """Tokens that count in the loss's global denominator."""
        return len(self.token_ids) if self.trains else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt and its responses."""

    prompt: Prompt
    video: str
    """Address of the clip, to decode it again if the cache of this node has lost it."""
    responses: tuple[Response, ...]

    @property
    def num_tokens(self) -> int:
        """Length of the row: the prompt once, and every response."""
        return len(self.prompt.token_ids) + sum(len(r.token_ids) for r in self.responses)

    @property
    def num_trained(self) -> int:
        """Tokens that count in the loss's global denominator."""
        return sum(response.num_trained for response in self.responses)


@dataclass(frozen=True, slots=True)
class StepCounts:
    """Counts of a whole update, over all ranks and micro-batches: the losses' denominators, so that
    no split of the rows changes the gradient."""

    num_tokens: int
    """Response tokens."""
    num_responses: int
    max_response_length: int = 0
    """The longest response that a run allows; what ``seq-mean-token-sum-norm`` divides by."""

    @classmethod
    def of(cls, rows: Iterable[Row], max_response_length: int = 0) -> "StepCounts":
        """Counts of all ranks' rows; fillers count nothing."""
        trained = [r for row in rows for r in row.responses if r.trains]
        num_tokens = sum(len(response.token_ids) for response in trained)
        return cls(num_tokens, len(trained), max_response_length)


def grpo_rows(groups: Sequence[TraceGroup]) -> list[Row]:
    """One row per group that has scored traces, with rewards and not yet with advantages; a trace
    whose scoring failed is left out."""
    rows = []
    for group in groups:
        if group.prompt is None or not group.scored:
            continue
        responses = tuple(
            Response(
                token_ids=trace.completion.token_ids,
                advantage=0.0,
                rollout_logprobs=trace.completion.logprobs,
                temperature=trace.completion.logprobs_temperature,
                reward=trace.reward,
                truncated=trace.completion.finish_reason.is_truncated,
            )
            for trace in group.scored
        )
        rows.append(Row(prompt=group.prompt, video=group.sample.video, responses=responses))
    return rows


def supervised_row(prompt: Prompt, video: str, target: Sequence[int], weight: float = 1.0) -> Row:
    """A row that teaches one answer: every target token trains, no prompt token does. ``weight``:
    of the example in the loss."""
    response = Response(token_ids=TokenIds(target), advantage=weight)
    return Row(prompt=prompt, video=video, responses=(response,))


def prompt_end_row(prompt: Prompt, video: str) -> Row:
    """A row whose hidden state is read at the prompt's last token: nothing is answered to it."""
    begun = replace(prompt, token_ids=TokenIds(prompt.token_ids[:-1]))
    return supervised_row(begun, video, prompt.token_ids[-1:])


def one_row_per_response(row: Row) -> list[Row]:
    """Split a row into one per response: the naive layout, which repeats the prompt."""
    return [replace(row, responses=(response,)) for response in row.responses]


def small_group(rows: Sequence[Row]) -> Row:
    """The shortest row of several responses, cut to a few, for a check; any row if none has
    several."""
    several = [row for row in rows if len(row.responses) > 1] or rows
    row = min(several, key=lambda row: row.num_tokens)
    return replace(row, responses=row.responses[:_FEW])


def split_rows(rows: Iterable[Row], max_tokens: int) -> list[Row]:
    """Rows of at most ``max_tokens`` tokens each: a larger group becomes several rows with the same
    prompt, its responses in order. A response with its prompt is never cut.

    The gradient is the same, because a response sees only its prompt and itself, its advantage is
    known, and losses are divided by the counts of the whole step.
    """
    parts = []
    for row in rows:
        held: list[Response] = []
        num_tokens = 0
        for response in row.responses:
            room = max_tokens - len(row.prompt.token_ids)
            if held and num_tokens + len(response.token_ids) > room:
                parts.append(replace(row, responses=tuple(held)))
                held, num_tokens = [], 0
            held.append(response)
            num_tokens += len(response.token_ids)
        parts.append(replace(row, responses=tuple(held)))
    return parts


RowLogprobs = Sequence[Sequence[Sequence[float]]]
"""Logprobs per row, response and token."""


def with_old_logprobs(rows: Sequence[Row], logprobs: RowLogprobs) -> list[Row]:
    """Rows that carry the trainer's own logprobs, for a step of several updates."""
    return [
        replace(row, responses=tuple(replace(r, old_logprobs=Logprobs(v)) for r, v in values))
        for row, values in _paired(rows, logprobs)
    ]


def with_ref_logprobs(rows: Sequence[Row], logprobs: RowLogprobs) -> list[Row]:
    """Rows that carry the reference model's logprobs."""
    return [
        replace(row, responses=tuple(replace(r, ref_logprobs=Logprobs(v)) for r, v in values))
        for row, values in _paired(rows, logprobs)
    ]


def _paired(
    rows: Sequence[Row], logprobs: RowLogprobs
) -> Iterator[tuple[Row, Iterator[tuple[Response, Sequence[float]]]]]:
    """Each row, with its responses beside their logprobs."""
    for row, values in zip(rows, logprobs, strict=True):
        yield row, zip(row.responses, values, strict=True)


def assign_to_ranks(rows: Sequence[Row], num_ranks: int) -> list[list[Row]]:
    """Assign rows to ranks, longest first to the least loaded; each rank keeps the order of
    ``rows``.

    A rank without rows gets a filler (a row that trains nothing), because every rank must take part
    in every collective of a step.
    """
    per_rank: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for index in sorted(range(len(rows)), key=lambda i: (-rows[i].num_tokens, i)):
        least = loads.index(min(loads))
        per_rank[least].append(index)
        loads[least] += rows[index].num_tokens
    assigned = [[rows[i] for i in sorted(indices)] for indices in per_rank]
    filler = as_filler(min(rows, key=lambda row: row.num_tokens))
    return [own or [filler] for own in assigned]


def without_tokens(row: Row) -> Row:
    """What identifies a row's clip, and nothing else: small enough to send as a hint."""
    return replace(row, prompt=replace(row.prompt, token_ids=TokenIds(())), responses=())


def as_filler(row: Row) -> Row:
    """A filler made of the row: same tensors, no loss, no count."""
    short = replace(row.responses[0], trains=False)
    return replace(row, responses=(short,))
