import asyncio
from typing import Any

from cluster.inputs.samples import SampleSplits
from cluster.session import RunResources, Session
from rollout.prompt import PromptKind, VerdictPrompt
from tests.cluster.session_fakes import make_config
from wire.types import Failure, FailureKind, Prompt, Sample, Split

SAMPLES = [
    Sample(id=f"s{i}", video=f"{i}.mp4", label="fall", split=Split.TRAIN, trace="t")
    for i in range(3)
]


class Prompts:
    """A rollout pool that only makes prompts, the first sample's last; notes what was asked."""

    def __init__(self, bad: str = "") -> None:
        self.asked: list[tuple[str, PromptKind]] = []
        self._bad = bad

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt | Failure:
        self.asked.append((sample.id, ask))
        await asyncio.sleep(0.01 * (3 - int(sample.id[1:])))
        if sample.id == self._bad:
            return Failure(kind=FailureKind.DECODE, culprit=sample.video, reason="cut")
        return Prompt(token_ids=(1,), clip_key=sample.video, fingerprint="f")

    async def cache_counts(self) -> dict[str, int]:
        return {}


class Quarantined:
    def __init__(self) -> None:
        self.videos: list[str] = []

    def add(self, video: str, sample_id: str, reason: str) -> bool:
        self.videos.append(video)
        return True

    def refuse_too_many(self) -> None: ...


def make_session(rollouts: Prompts) -> Session:
    none: Any = None
    quarantine: Any = Quarantined()
    resources = RunResources(
        config=make_config(),
        run_dir=none,
        data=SampleSplits(samples=SAMPLES),
        renderer=none,
        attempt=0,
        scorer=none,
        archive=none,
        quarantine=quarantine,
        metrics=none,
    )
    return Session(resources, rollouts, none, 0)  # type: ignore[arg-type]


async def test_labels_are_asked_in_the_order_of_the_samples_and_failures_stay() -> None:
    pool = Prompts(bad="s1")
    first, second, third = await make_session(pool).label_prompts(SAMPLES)
    assert pool.asked == [("s0", "label"), ("s1", "label"), ("s2", "label")]
    assert isinstance(second, Failure)
    assert [p.clip_key for p in (first, third) if isinstance(p, Prompt)] == ["0.mp4", "2.mp4"]


async def test_a_verdict_is_asked_on_each_trace() -> None:
    pool = Prompts()
    await make_session(pool).verdict_prompts([(SAMPLES[0], "a"), (SAMPLES[0], "b")])
    assert pool.asked == [("s0", VerdictPrompt("a")), ("s0", VerdictPrompt("b"))]


async def test_trace_prompts_leave_out_clips_that_cannot_be_read() -> None:
    pool = Prompts(bad="s1")
    session = make_session(pool)
    found = await session.prompts(SAMPLES)
    assert [(sample.id, prompt.clip_key) for sample, prompt in found] == [
        ("s0", "0.mp4"),
        ("s2", "2.mp4"),
    ]
    assert {ask for _, ask in pool.asked} == {"trace"}
    assert session.quarantine.videos == ["1.mp4"]  # type: ignore[attr-defined]
