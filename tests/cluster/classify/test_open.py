"""A published classifier that was moved, on real engines: its label logprobs are the learner's."""

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate.calibration import Calibration
from calibrate.calibrator import Calibrator, Source
from calibrate.classifier import Classifier, load_classifier, publish_classifier
from calibrate.description import AnswerSettings
from cluster.classify.machine import Machine
from cluster.classify.pipeline import Pipeline
from cluster.classify.rows import Row
from cluster.classify.sources import AnsweredClip, LabelSource, SourceScores
from cluster.config.recipe import RunConfig
from cluster.inputs.classifier_settings import describe
from tests.calibrate.classifiers import make_provenance
from wire.labels import LabelSet
from wire.types import PolicyVersion, Sample

EXACT = 1e-5
SOURCES: tuple[Source, ...] = ("vote", "verdict", "head")


class Recorder:
    """Keeps each answered clip with what the sources say of it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.seen: dict[str, tuple[AnsweredClip, dict[Source, Any]]] = {}
        self.num_engines = len(pipeline._answering.engines)
        sources: Any = pipeline._answering.sources
        for name, source in list(sources.items()):
            sources[name] = Listening(self, name, source)


@dataclass
class Listening:
    """A source beside which one listens."""

    recorder: Recorder
    name: Source
    source: LabelSource

    async def ask(self, answered: AnsweredClip) -> SourceScores:
        scores = await self.source.ask(answered)
        seen = self.recorder.seen.setdefault(answered.sample.id, (answered, {}))
        seen[1][self.name] = scores.logprobs
        return scores


class Place:
    """Models, clips and labels on disk, and a classifier of them."""

    def __init__(self, root: Path) -> None:
        from cluster.demo.clips import make_demo_data
        from cluster.demo.events import DEFINITIONS
        from rollout.manifest import read_manifest
        from tests.tiny_models import write_tiny_model

        self.root = root
        self.policy = write_tiny_model(root / "policy", "qwen2_5_vl", seed=0)
        self.verdict = write_tiny_model(root / "verdict", "qwen2_5_vl", seed=1)
        names = [{"name": name, "definition": text} for name, text in DEFINITIONS.items()]
        manifest = make_demo_data(root / "data", train=40, traces=1, val=1, cal=1, test=6)
        self.config = RunConfig.model_validate(
            {
                "model": self.policy,
                "labels": names,
                "data": {"manifest": manifest},
                "video": {"max_frames": 12},
                "rollout": {
                    "dtype": "float32",
                    "max_prompt_length": 384,
                    "max_response_length": 24,
                    "block_size": 32,
                },
            }
        )
        self.labels: LabelSet = self.config.label_set
        samples = read_manifest(manifest, self.labels)
        self.samples = [sample for sample in samples if sample.split == "test"]

    def write_adapter(self) -> Path:
        """A LoRA adapter on the policy, in place of the verdict's own weights, which become those
        of policy and adapter."""
        import torch
        from safetensors.torch import save_file

        from learner.config import LoraConfig
        from learner.model.lora import adapt, adapter_config, weight_parts
        from learner.model.policy import Policy
        from learner.model.trained_parts import Part
        from wire.adapters import AdapterFiles

        vlm, config = Policy.load(self.policy, "float32").vlm, LoraConfig(rank=4, alpha=8)
        adapt(vlm, config, (Part.MERGER, Part.VISION_TOWER))
        torch.manual_seed(1)
        for name, parameter in vlm.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.1)
        tensors = {part.name: part.make() for part in weight_parts(vlm, "adapter")}
        folder = self.root / "adapter"
        AdapterFiles.of(adapter_config(vlm, config, self.policy), tensors).write(folder)
        shutil.copytree(self.policy, self.verdict, dirs_exist_ok=True)
        merged = {part.name: part.make().detach().clone() for part in weight_parts(vlm, "merged")}
        save_file(merged, self.verdict / "model.safetensors", metadata={"format": "pt"})
        return folder

    def publish(self, adapter_dir: Path | None = None) -> Classifier:
        from calibrate.head import fit
        from rollout.render import Renderer

        draw = np.random.default_rng(0)
        rows = [name for name in self.labels.names for _ in range(4)]
        head = fit(draw.normal(size=(len(rows), 128)).astype(np.float32), rows, self.labels.names)
        renderer = Renderer.load(self.policy, 384)
        weights = dict(zip(SOURCES, (0.5, 0.25, 1.0), strict=True))
        return publish_classifier(
            self.root / "classifier",
            describe(
                self.config,
                renderer.label_codes(self.labels),
                name="tiny",
                sources=SOURCES,
                policy=PolicyVersion(attempt=0, step=3),
                answers=AnswerSettings(num_votes=2),
            ),
            calibration=Calibration(
                calibrator=Calibrator(label_names=self.labels.names, weights=weights)
            ),
            provenance=make_provenance(),
            policy_dir=self.policy,
            verdict_dir=None if adapter_dir else self.verdict,
            adapter_dir=adapter_dir,
            head=head,
        )


async def classify(
    place: Place, classifier: Classifier, samples: Sequence[Sample]
) -> tuple[list[Row], Recorder, np.ndarray]:
    """Rows of the samples, what was recorded, and the policy's own answer after a given trace about
    the first."""
    from cluster.classify.open import open_pipeline

    machine = Machine(cache_dir=place.root / "cache", in_flight=4)
    async with open_pipeline(classifier, machine) as pipeline:
        recorder = Recorder(pipeline)
        rows = [row async for row in pipeline.classify_all(samples)]
        answering = pipeline._answering
        asked = with_trace(place, answering.inputs.renderer, recorder.seen[samples[0].id][0])
        from cluster.classify.sources import PolicySource

        source = PolicySource(answering.engine, answering.inputs, place.labels)
        return rows, recorder, (await source.ask(asked)).logprobs


def with_trace(place: Place, renderer: Any, answered: AnsweredClip) -> AnsweredClip:
    ids = renderer.target("<think>left then left</think><answer>undo</answer>")
    trace = replace(answered.trace, token_ids=ids, logprobs=[-1.0] * len(ids))
    return replace(answered, trace=trace)


class Learner:
    """The learner's model in this process."""

    def __init__(self, model_dir: Path) -> None:
        from learner.model.policy import Policy
        from video.positions import PositionRule

        self._policy = Policy.load(model_dir, "float32").eval()
        self._rule = PositionRule.load(model_dir)

    def batch(self, prompt: Any, clip: Any, responses: Sequence[Sequence[int]]) -> Any:
        from learner.shared_prefix.batch import make_batch
        from learner.shared_prefix.rows import Response, Row
        from wire.token_arrays import TokenIds

        made = tuple(Response(token_ids=TokenIds(one)) for one in responses)
        row = Row(prompt=prompt, video="", responses=made)
        return make_batch([row], lambda _: clip, self._rule)

    def sums(self, prompt: Any, clip: Any, codes: Sequence[Sequence[int]]) -> np.ndarray:
        import torch

        with torch.no_grad():
            logp = self._policy(self.batch(prompt, clip, codes)).logp.numpy()
        ends = np.cumsum([len(code) for code in codes])
        return np.array([part.sum() for part in np.split(logp, ends[:-1])])

    def features(self, answered: AnsweredClip) -> np.ndarray:
        import torch

        batch = self.batch(answered.prompt, answered.clip, [answered.trace.token_ids])
        with torch.no_grad():
            return np.asarray(self._policy(batch, features=True).numpy())


def expected(
    place: Place, classifier: Classifier, recorder: Recorder
) -> dict[str, dict[Source, np.ndarray]]:
    """Label logprobs of the recorded clips, by the learner's models."""
    from calibrate.head import Head
    from rollout.prompt import VerdictPrompt
    from rollout.render import Renderer

    renderer, prompts = Renderer.load(place.policy, 384), place.config.prompt_set
    codes = [renderer.label_codes(place.labels)[name] for name in place.labels.names]
    verdict, policy = Learner(place.verdict), Learner(place.policy)
    assert classifier.head_dir is not None
    head = Head.load(classifier.head_dir)
    logprobs: dict[str, dict[Source, np.ndarray]] = {}
    for name, (answered, served) in recorder.seen.items():
        messages = prompts.ask(VerdictPrompt(answered.trace.text), answered.sample)
        asked = renderer.prompt(messages, answered.clip, bounded=False)
        logprobs[name] = {
            "verdict": verdict.sums(asked, answered.clip, codes),
            "head": np.log(head.probabilities(policy.features(answered))[0]),
            "vote": served["vote"],  # counts of sampled traces
        }
    return logprobs


def policys_answer(place: Place, answered: AnsweredClip) -> np.ndarray:
    """The learner's logprobs of each label after a given trace."""
    from rollout.render import Renderer

    renderer = Renderer.load(place.policy, 384)
    asked = with_trace(place, renderer, answered)
    turns = renderer.answer_turns(asked.trace.token_ids, place.labels)
    assert turns is not None
    begun = replace(asked.prompt, token_ids=(*asked.prompt.token_ids, *turns[0]))  # type: ignore
    codes = [turns[1][name] for name in place.labels.names]
    return Learner(place.policy).sums(begun, asked.clip, codes)


def table(rows: Sequence[Row]) -> np.ndarray:
    assert [row.failure for row in rows] == [None] * len(rows)
    return np.array([list((row.probabilities or {}).values()) for row in rows])


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("kind", ["weights", "adapter"])
def test_a_published_classifier_answers_as_the_learner_does_wherever_it_lies(
    tmp_path: Path, kind: str
) -> None:
    place = Place(tmp_path)
    published = place.publish(place.write_adapter() if kind == "adapter" else None)
    shutil.move(published.path, tmp_path / "elsewhere")
    for folder in (place.policy, place.verdict):
        folder.rename(folder.with_name(f"hidden-{folder.name}"))  # nothing points back
    classifier = load_classifier(tmp_path / "elsewhere")
    assert classifier.version == published.version
    (tmp_path / "empty.mp4").touch()
    bad = replace(place.samples[0], id="empty", video=str(tmp_path / "empty.mp4"))
    samples = [*place.samples, bad]
    (*rows, failed), recorder, policy = asyncio.run(classify(place, classifier, samples))
    assert failed.failure is not None
    assert "the file is empty (0 bytes)" in failed.failure.reason
    assert recorder.num_engines == {"weights": 2, "adapter": 1}[kind]
    assert {len(row.frames) for row in rows} == {12}
    for folder in (place.policy, place.verdict):
        folder.with_name(f"hidden-{folder.name}").rename(folder)
    logprobs = expected(place, classifier, recorder)
    for name, (_, served) in recorder.seen.items():
        for source in SOURCES:
            assert np.abs(served[source] - logprobs[name][source]).max() < EXACT, source
    ordered = {source: [logprobs[row.id][source] for row in rows] for source in SOURCES}
    calibration = Calibration.from_json((classifier.path / "calibration.json").read_bytes())
    gaps = table(rows) - calibration.calibrator.probabilities(ordered)
    assert np.abs(gaps).max() < EXACT
    assert table(rows).std(axis=0).max() > 1e-3, "all clips alike prove nothing"
    first = recorder.seen[rows[0].id][0]
    assert np.abs(policy - policys_answer(place, first)).max() < EXACT
