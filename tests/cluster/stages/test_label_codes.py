"""Labels asked of a real tiny model by their codes, against sums over whole answers."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from calibrate.traces import VerdictExamples
from calibrate.verdict import probabilities_from_logprobs
from cluster.stages.label_codes import LabelCodes
from learner.model.policy import Policy
from learner.objective.loss import supervised_loss
from learner.shared_prefix.batch import TrainBatch, make_batch
from learner.shared_prefix.rows import Row
from rollout.render import Renderer
from tests.groups import make_sample
from tests.learner.builders import RandomClips, make_prompt
from tests.tiny_models import write_tiny_model
from video.positions import PositionRule
from wire.labels import Label, LabelSet
from wire.types import Prompt, Sample

NAMES = ("drink", "drink beer", "1", "10", "100", "undo")
LABELS = LabelSet(labels=tuple(Label(name=name) for name in NAMES))
SAMPLES = [make_sample(name, video=f"{n}.mp4") for n, name in enumerate(LABELS.names)]


class PolicyLearner:
    """Scores rows with a policy, in one batch."""

    def __init__(self, folder: Path) -> None:
        self.policy = Policy.load(folder, "float32")
        self._rule = PositionRule.load(folder)

    def batch(self, rows: Sequence[Row]) -> TrainBatch:
        return make_batch(rows, lambda r: RandomClips().load(r.prompt.clip_key, "", ""), self._rule)

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        batch = self.batch(rows)
        with torch.no_grad():
            parts = iter(self.policy(batch).logp.split(batch.lengths))
        return [[next(parts).tolist() for _ in row.responses] for row in rows]

    def probabilities(self, prompt: Prompt, written: tuple[int, ...]) -> torch.Tensor:
        """Of every next token, by transformers' own forward pass over the whole text."""
        clip = RandomClips().load(prompt.clip_key, "", "")
        ids = (*prompt.token_ids, *written)
        positions = self._rule.of_prompt(list(ids), clip.grid_thw, clip.seconds_per_grid)
        with torch.no_grad():
            output = self.policy.vlm(
                input_ids=torch.tensor([ids]),
                position_ids=torch.from_numpy(positions)[:, None],
                pixel_values_videos=torch.from_numpy(clip.pixel_values),
                video_grid_thw=torch.tensor([clip.grid_thw]),
            )
        return output.logits[0, -1].double().softmax(-1)


class Prompts:
    """A prompt per sample."""

    async def label_prompts(self, samples: list[Sample]) -> list[Prompt]:
        return [make_prompt(seed=int(sample.video.removesuffix(".mp4"))) for sample in samples]

    async def verdict_prompts(self, traces: list[tuple[Sample, str]]) -> list[Prompt]:
        raise AssertionError("no trace is shown here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), "qwen2_5_vl")


@pytest.fixture
def learner(folder: Path) -> PolicyLearner:
    return PolicyLearner(folder)


@pytest.fixture
def codes(folder: Path) -> dict[str, tuple[int, ...]]:
    return Renderer.load(folder, 1000).label_codes(LABELS)


def examples(*names: str) -> VerdictExamples:
    return VerdictExamples([s for s in SAMPLES if s.label in names or not names], None)


async def test_probabilities_of_labels_are_those_of_their_whole_answers(
    learner: PolicyLearner, codes: dict[str, tuple[int, ...]]
):
    logprobs = await LabelCodes(codes, Prompts(), learner).logprobs(
        VerdictExamples(SAMPLES[:2], None)
    )
    shares = probabilities_from_logprobs(logprobs)
    for sample, row, share in zip(SAMPLES[:2], logprobs, shares, strict=True):
        (prompt,) = await Prompts().label_prompts([sample])
        mass, elsewhere = walk(learner, prompt, codes)
        assert list(mass) == list(LABELS.names)
        assert [math.exp(value) for value in row] == pytest.approx(list(mass.values()), rel=1e-3)
        assert sum(mass.values()) + elsewhere == pytest.approx(1, abs=1e-9)
        total = sum(mass.values())
        assert share.tolist() == pytest.approx([m / total for m in mass.values()], rel=1e-3)
        assert share.sum() == pytest.approx(1, abs=1e-12)


def walk(
    learner: PolicyLearner, prompt: Prompt, codes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, float], float]:
    """Probability that an answer begins with each code, and that it begins with none: the tree of
    all codes, each place of it asked once. Only codes that are told apart divide the whole."""
    mass, elsewhere = {}, 0.0
    todo: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
    while todo:
        written, probability = todo.pop()
        whole = [name for name, code in codes.items() if code == written]
        if whole:
            (name,) = whole
            mass[name] = probability
            continue
        following = {c[len(written)] for c in codes.values() if c[: len(written)] == written}
        after = learner.probabilities(prompt, written)
        for token in sorted(following):
            todo.append(((*written, token), probability * float(after[token])))
        elsewhere += probability * (1 - float(after[sorted(following)].sum()))
    return {name: mass[name] for name in codes}, elsewhere


@pytest.mark.slow
async def test_a_model_learns_which_of_two_labels_that_begin_alike_is_meant(
    tmp_path: Path, learner: PolicyLearner, codes: dict[str, tuple[int, ...]]
):
    taught = examples("drink", "drink beer")
    asked = LabelCodes(codes, Prompts(), learner)
    rows = await asked.targets(taught, tmp_path)
    assert [row.responses[0].token_ids for row in rows] == [codes["drink"], codes["drink beer"]]
    optimizer = torch.optim.Adam(learner.policy.parameters(), lr=5e-3)
    batch = learner.batch(rows)
    for _ in range(16):
        optimizer.zero_grad()
        logp = learner.policy(batch).logp
        supervised_loss(logp, batch.advantage, batch.mask, len(logp)).loss.backward()
        optimizer.step()
    shares = probabilities_from_logprobs(await asked.logprobs(taught))
    assert [LABELS.names[i] for i in shares.argmax(1)] == ["drink", "drink beer"]
    assert shares.max(1).min() > 0.9
