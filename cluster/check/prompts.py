"""Checks lengths in tokens: prompts against the rollout's limit, teachers' traces against the
response's.

    side texts + clip sizes -> bound from bytes -> tokens of texts near the limit -> findings

A token of a text has at least one byte, so that only texts near the limit need the tokenizer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.check.clip_facts import ClipFacts
from cluster.check.clips import ClipScans, file_of
from cluster.config.recipe import RunConfig
from cluster.inputs.preflight import read_context
from rollout.message import Message
from rollout.prompt import trace_target
from rollout.prompt_size import PromptSize
from rollout.render import Renderer
from video.processor import ClipProcessor
from wire.errors import ClipError
from wire.finding import Area, Finding, error, ok, warning
from wire.labels import LabelSet, reasoning_in
from wire.types import Sample, Split

_MARGIN = 16
"""Most tokens that a sample's text adds beside its own: other splits of words next to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Tokens of a sample's trace prompt."""

    sample: Sample
    text: int
    video: int

    @property
    def total(self) -> int:
        """Text and video."""
        return self.text + self.video


class PromptLengths:
    """Lengths of prompts in tokens, by the model's own tokenizer and processor."""

    def __init__(self, config: RunConfig, renderer: Renderer, processor: ClipProcessor) -> None:
        """Raises ConfigError if the recipe's pixel bounds contradict the processor's."""
        processor.pixel_bounds(config.video)
        self._config, self._renderer, self._processor = config, renderer, processor
        self._bare = config.prompt_set.bare()
        self._bare_tokens = renderer.num_text_tokens(self._bare)
        self._video: dict[tuple[int, int, int], int | None] = {}

    def video_tokens(self, clip: ClipFacts) -> int | None:
        """Video tokens of a clip; None if the model refuses frames of its size."""
        shape = (clip.frames, clip.height, clip.width)
        if shape not in self._video:
            try:
                self._video[shape] = self._processor.num_placeholders(*shape, self._config.video)
            except ClipError:
                self._video[shape] = None
        return self._video[shape]

    def measure(
        self, samples: Iterable[Sample], scans: ClipScans
    ) -> tuple[SampleSize | None, list[SampleSize]]:
        """The longest prompt, and all that are longer than the rollout's limit."""
        limit = self._config.rollout.max_prompt_length
        bounds = []
        for sample in samples:
            scan = scans.get(file_of(sample))
            if isinstance(scan, ClipFacts) and (video := self.video_tokens(scan)) is not None:
                bounds.append((self._bound(sample) + video, video, sample))
        bounds.sort(key=lambda entry: -entry[0])
        longest: SampleSize | None = None
        over = []
        for bound, video, sample in bounds:
            if longest is not None and bound <= min(longest.total, limit):
                break
            size = SampleSize(sample=sample, text=self._text_tokens(sample), video=video)
            longest = size if longest is None or size.total > longest.total else longest
            if size.total > limit:
                over.append(size)
        return longest, over

    def parts(self, size: SampleSize) -> PromptSize:
        """What makes up a sample's prompt."""
        return self._renderer.size(self._config.prompt_set.trace(size.sample), size.video)

    def _bound(self, sample: Sample) -> int:
        prompts = self._config.prompt_set
        own = _num_bytes(prompts.trace(sample)) - _num_bytes(self._bare)
        return self._bare_tokens + (own + _MARGIN * (1 + len(prompts.columns)) if own else 0)

    def _text_tokens(self, sample: Sample) -> int:
        messages = self._config.prompt_set.trace(sample)
        if messages == self._bare:
            return self._bare_tokens
        return self._renderer.num_text_tokens(messages)


def _num_bytes(messages: Sequence[Message]) -> int:
    return sum(len(message.text.encode(errors="surrogatepass")) for message in messages)


def prompt_findings(
    config: RunConfig,
    samples: Sequence[Sample],
    scans: ClipScans,
    prompt_lengths: PromptLengths,
    refusals: Sequence[Finding] = (),
) -> list[Finding]:
    """Findings on clips that the model refuses, prompts that do not fit, and the longest prompt.

    ``refusals``: what a run says of the first prompt that it tries, which are about the same.
    """
    findings = _unsuited(samples, scans, prompt_lengths)
    longest, over = prompt_lengths.measure(samples, scans)
    if over:
        largest = prompt_lengths.parts(max(over, key=lambda size: size.total))
        findings.append(_too_long(config, samples, over, largest, refused=bool(refusals)))
    else:
        findings += refusals
    if longest is not None:
        rollout = config.rollout
        findings.append(
            ok(
                Area.PROMPTS,
                f"the longest prompt has {longest.total} tokens, {longest.video} of them video "
                f"({longest.sample.id}); rollout.max_prompt_length = {rollout.max_prompt_length}, "
                f"with the response at most {rollout.max_model_len}",
            )
        )
    return findings


def _too_long(
    config: RunConfig,
    samples: Sequence[Sample],
    over: Sequence[SampleSize],
    largest: PromptSize,
    *,
    refused: bool,
) -> Finding:
    what = (
        f"{len(over)} of {len(samples)} prompts are longer than rollout.max_prompt_length = "
        f"{config.rollout.max_prompt_length}, up to {largest}"
    )
    remedy = f"set it to {largest.total} or more, or {largest.remedy}"
    context = read_context(config.model)
    if context is not None and largest.total + config.rollout.max_response_length >= context:
        remedy = f"{largest.remedy}: the model has positions for {context} tokens in all"
    where = [f"{s.sample.id}: {s.total} tokens, {s.video} of them video" for s in over]
    train = sum(sample.split is Split.TRAIN for sample in samples)
    lost = sum(size.sample.split is Split.TRAIN for size in over)
    limit = config.reward.max_failure_frac
    if lost > limit * train:
        ends = f"{lost} of {train} train clips, more than reward.max_failure_frac = {limit:g}"
        return error(Area.PROMPTS, f"{what} ({ends}, which ends a run)", remedy, where)
    if refused:
        return error(Area.PROMPTS, f"{what}; a run does not start with such a text", remedy, where)
    return warning(Area.PROMPTS, f"{what}: they fail, and a run goes on without", remedy, where)


def _unsuited(
    samples: Sequence[Sample], scans: ClipScans, prompt_lengths: PromptLengths
) -> list[Finding]:
    files = {file_of(sample): scans.get(file_of(sample)) for sample in samples}
    where = [
        f"{file}: {scan.width} x {scan.height}"
        for file, scan in files.items()
        if isinstance(scan, ClipFacts) and prompt_lengths.video_tokens(scan) is None
    ]
    if not where:
        return []
    what = f"the model takes no frames of the size of {len(where)} of {len(files)} clips"
    return [warning(Area.CLIPS, what, "cut or scale them; a run goes on without them", where)]


def trace_findings(
    labels: LabelSet,
    with_trace: Sequence[Sample],
    tokens_of: Callable[[str], int] | None,
    max_response_length: int,
) -> list[Finding]:
    """Findings on teachers' traces: another label, no form, longer than a response.

    ``tokens_of``: number of tokens of a trace with its end; None without a tokenizer.
    """
    if not with_trace:
        return []
    answers = {sample.id: labels.answer_in(trace_target(sample)) for sample in with_trace}
    wrong = [s for s in with_trace if answers[s.id] not in (None, s.label)]
    formless = [
        s for s in with_trace if answers[s.id] is None or reasoning_in(trace_target(s)) is None
    ]
    findings = []
    if wrong:
        what = f"{len(wrong)} of {len(with_trace)} traces conclude with another label than theirs"
        where = [f"{s.id}: label {s.label!r}, trace says {answers[s.id]!r}" for s in wrong]
        findings.append(warning(Area.TRACES, what, "mend or drop these traces", where))
    if formless:
        what = f"{len(formless)} of {len(with_trace)} traces have no think block or no known answer"
        remedy = "write <think>...</think><answer>LABEL</answer>: what earns no reward is learnt"
        findings.append(warning(Area.TRACES, what, remedy, [s.id for s in formless]))
    if tokens_of is not None:
        findings += _long_traces(with_trace, tokens_of, max_response_length)
    unseen = [name for name in labels.names if name not in {s.label for s in with_trace}]
    if unseen:
        what = f"{len(unseen)} of {len(labels.names)} labels have no trace: GRPO seldom finds them"
        remedy = "add a few traces of each; the verdict learns such a label from its clips alone"
        findings.append(warning(Area.TRACES, what, remedy, unseen))
    return findings or [ok(Area.TRACES, f"{len(with_trace)} traces, each concludes with its label")]


def _long_traces(
    with_trace: Sequence[Sample], tokens_of: Callable[[str], int], limit: int
) -> list[Finding]:
    where, most = [], 0
    for sample in with_trace:
        trace = trace_target(sample)
        if len(trace.encode()) < limit:  # and one token ends the turn
            continue
        if (tokens := tokens_of(trace)) > limit:
            where.append(f"{sample.id}: {tokens} tokens")
            most = max(most, tokens)
    if not where:
        return []
    what = (
        f"{len(where)} of {len(with_trace)} traces are longer than rollout.max_response_length = "
        f"{limit}, up to {most} tokens: a policy that learns them is cut off before its answer"
    )
    return [warning(Area.TRACES, what, f"set it to {most} or more, or drop these traces", where)]
