"""A rollout worker and a learner, each in a Ray actor, with the real vLLM and DeepSpeed.

Learner's rank 0 -> Client (which a test may make faulty) -> Rollouts -> VllmEngine
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from learner.config import (
    GrpoLossConfig,
    LearnerConfig,
    ObjectStoreConfig,
    OptimConfig,
)
from learner.shared_prefix.rows import Response, Row, StepCounts
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.prompt import Prompts
from rollout.worker import Rollout
from video.config import VideoConfig
from wire.labels import Label, LabelSet
from wire.token_arrays import TokenIds
from wire.types import Completion, PolicyVersion, Prompt, Sample

SIDE_TEXT = "one shape on a plain ground, three events one after another, seen from above"
# more prompt tokens than one pass takes, so that concurrent prompts are computed in parts
ENGINE = RolloutConfig(
    dtype="float32",
    max_prompt_length=512,
    max_response_length=64,
    block_size=32,
    max_batched_tokens=600,
    request_timeout_s=120,
    update_timeout_s=60,
)


class Rollouts:
    """A rollout worker and its engine."""

    async def start(
        self, model_dir: Path, cache_dir: Path, labels: LabelSet, **settings: Any
    ) -> None:
        from rollout.render import Renderer
        from rollout.vllm_engine import VllmEngine
        from rollout.worker import RolloutWorker
        from video.processor import ClipProcessor
        from video.semantic_tokens.narrated_clips import NarratedClips

        config = ENGINE.model_copy(update=settings)
        renderer = Renderer.load(model_dir, config.max_prompt_length)
        self.clips = clips = NarratedClips(cache_dir, ClipProcessor(model_dir), VideoConfig())
        self.renderer = renderer
        blocked = renderer.blocked_tokens()
        self.engine = await VllmEngine.start(model_dir, config, blocked, "object_store")
        version = PolicyVersion(attempt=0, step=0)
        prompts = Prompts(labels, use_side_text=True)
        self.worker = RolloutWorker("r0", self.engine, renderer, clips, prompts, version)

    async def answer(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        return await asyncio.gather(*[self.worker.answer(s, sampling) for s in samples])

    async def treat_in_flight(self, how: str) -> None:
        """Let updates treat what is being written so from now on, as a recipe's setting does."""
        self.engine._config = self.engine._config.model_copy(update={"in_flight": how})
        self.engine._groups._in_flight = how

    async def num_running(self) -> int:
        return self.engine._groups.running

    async def num_restarted(self) -> int:
        return self.engine.num_restarted

    async def bytes_into_core(self, sample: Sample, sampling: Sampling) -> tuple[int, int, Any]:
        """Bytes that a group sends to the engine core, those of its clip, and the group."""
        client, sent = self.engine._llm.engine_core, []
        encode = client.encoder.encode

        def counting(request: Any) -> Any:
            parts = encode(request)
            sent.append(sum(memoryview(part).nbytes for part in parts))
            return parts

        client.encoder.encode = counting
        try:
            rollout = await self.worker.answer(sample, sampling)
        finally:
            del client.encoder.encode
        clip = await self.worker._inputs.clip(sample.video)
        return sum(sent), clip.pixel_values.nbytes, rollout

    async def share_embeddings(self, folder: Path | None) -> None:
        """Share embeddings of clips in a folder, by the name of a tower; None: no longer."""
        from cluster.actors.embeddings_of_node import EmbeddingsOfNode
        from learner.model.embedding_store import EmbeddingStore

        self.engine.embeddings = (
            EmbeddingsOfNode(EmbeddingStore(folder, 2**30), "tower", 128) if folder else None
        )

    async def key_of(self, video: str) -> str:
        return self.clips.key_of(video)

    async def use_tokens(self, narration: Any) -> None:
        self.clips.use(narration, self.renderer.plain_ids)

    async def logprobs(self, video: str, prompt: Prompt, response: Sequence[int]) -> list[float]:
        return await self.worker.logprobs(video, prompt, response)

    async def label_logprobs(
        self, video: str, prompt: Prompt, codes: Sequence[tuple[int, ...]]
    ) -> list[float]:
        clip = await self.worker._inputs.clip(video)
        return await self.engine.label_logprobs(prompt, clip, codes)

    async def begin_update(self) -> None:
        await self.worker.begin_update()

    async def update_weights(self, update: dict[str, Any]) -> None:
        await self.worker.update_weights(update)

    async def finish_update(self, version: PolicyVersion) -> None:
        await self.worker.finish_update(version)

    async def processes(self) -> list[int]:
        """This actor's, then the engine's."""
        import psutil

        me = psutil.Process()
        return [me.pid, *(child.pid for child in me.children(recursive=True))]

    async def stop(self) -> None:
        self.engine.stop()


class Client:
    """vLLM's weight-sync protocol over Ray. ``spoil`` sees every chunk: None drops it."""

    def __init__(self, rollouts: Any, version: int, spoil: Callable[[dict], dict | None]) -> None:
        self._rollouts = rollouts
        self._version = PolicyVersion(attempt=0, step=version)
        self._spoil = spoil

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        pass

    def start_weight_update(self) -> None:
        self._call("begin_update")

    def update_weights(self, update: dict[str, Any]) -> None:
        if (chunk := self._spoil(update)) is not None:
            rest = {key: chunk[key] for key in ("header", "path", "num_buckets")}
            self._call("update_weights", rest)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_update", self._version)

    def _call(self, method: str, *values: Any) -> None:
        import ray

        ray.get(getattr(self._rollouts, method).remote(*values), timeout=120)


class SilentClient(Client):
    """Acknowledges everything and does nothing."""

    def _call(self, method: str, *values: Any) -> None:
        pass


class Altered:
    """An engine's weights, some of them changed by ``alter``."""

    def __init__(self, engine: Any, alter: Callable) -> None:
        self._engine, self._alter = engine, alter

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in self.full_parameters(1 << 28)]

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, Any]]:
        return self._alter(self._engine.full_parameters(bucket_bytes))

    def can_settle(self, dtype: Any) -> bool:
        return self._alter is iter and self._engine.can_settle(dtype)

    def settle(self, places: Mapping[str, Any]) -> None:
        self._engine.settle(places)


class Learner:
    """One learner rank."""

    def __init__(self, model_dir: Path, cache_dir: Path) -> None:
        from learner.ranks.rendezvous import open_rendezvous
        from learner.worker import LearnerWorker
        from video.cache import ClipStore
        from video.processor import ClipProcessor

        clips = ClipStore(cache_dir, ClipProcessor(model_dir), VideoConfig())
        # the vision tower is trained too, so that stale encoder outputs would be seen
        config = LearnerConfig(dtype="float32", freeze_vision_tower=False)
        self.worker = LearnerWorker(config, GrpoLossConfig(), clips)
        self.worker.join(0, "127.0.0.1", open_rendezvous(1))
        self.worker.begin(str(model_dir), OptimConfig(learning_rate=1e-3))

    def logprobs(self, rows: list[Row]) -> list[list[list[float]]]:
        return self.worker.logprobs(rows)

    def train(self, rows: list[Row]) -> None:
        self.worker.train_step(rows, StepCounts.of(rows), "supervised", 1e-3)

    def publish(self, client: Client, alter: Callable, bucket_mb: float) -> None:
        """Through the real sender; ``alter`` may change the stream of parameters."""
        import torch

        from learner.weight_transfer import PolicySource, connect

        config = ObjectStoreConfig(bucket_mb=bucket_mb)
        weights = Altered(self.worker.engine, alter)
        source = PolicySource(lambda: weights, torch.float32, config.bucket_bytes)
        connect(config, client, source, 0, "127.0.0.1", timeout_s=60).send_weights()

    def export(self, directory: Path) -> None:
        self.worker.export(str(directory))


class Stage:
    """What the tests say to both, and how they compare them."""

    def __init__(self, rollouts: Any, learner: Any, samples: list[Sample], where: Any) -> None:
        self.rollouts, self.learner, self.samples, self.where = rollouts, learner, samples, where
        self.prompts = Prompts(where.labels, use_side_text=True)
        self.version = 0

    def get(self, reference: Any, timeout_s: float = 240) -> Any:
        import ray

        return ray.get(reference, timeout=timeout_s)

    def answer(
        self, samples: Sequence[Sample], n: int = 8, temperature: float = 1.0, seed: int = 1
    ) -> list[Rollout]:
        sampling = Sampling(n=n, temperature=temperature, max_tokens=48, seed=seed)
        found = self.get(self.rollouts.answer.remote(list(samples), sampling))
        assert [r.failures for r in found] == [()] * len(samples)
        return found

    def overtaken(self, how: str) -> list[Rollout]:
        """Eight groups, with an update while they are being written that treats them so."""
        sampling = Sampling(n=8, temperature=1.0, max_tokens=64, seed=3)
        self.get(self.rollouts.treat_in_flight.remote(how))
        writing = self.rollouts.answer.remote(self.samples[:8], sampling)
        deadline = time.monotonic() + 60
        while self.get(self.rollouts.num_running.remote()) < 8:
            assert time.monotonic() < deadline, "the engine did not take the groups"
        self.publish()
        return self.get(writing)

    def token_gaps(self, sample: Sample, prompt: Prompt, completion: Completion) -> list[float]:
        """|logprob as sampled - the learner's now| of each token of an answer."""
        responses = (Response(token_ids=completion.token_ids),)
        row = Row(prompt=prompt, video=sample.video, responses=responses)
        ((now,),) = self.get(self.learner.logprobs.remote([row]))
        return [abs(a - b) for a, b in zip(completion.logprobs, now, strict=True)]

    def gap(self, samples: Sequence[Sample], **settings: Any) -> float:
        """Largest |logprob as sampled - the learner's| of fresh answers."""
        rollouts = self.answer(samples, **settings)
        return _gap(
            [[c.logprobs for c in r.completions] for r in rollouts],
            self.get(self.learner.logprobs.remote(rows_of(samples, rollouts))),
        )

    def probe(self, sample: Sample, prompt: Prompt, completions: Sequence[Completion]) -> float:
        """Largest |the engine's logprob now - the learner's now| of given answers."""
        calls = [
            self.rollouts.logprobs.remote(sample.video, prompt, c.token_ids) for c in completions
        ]
        responses = tuple(Response(token_ids=c.token_ids) for c in completions)
        row = Row(prompt=prompt, video=sample.video, responses=responses)
        return _gap([self.get(calls)], self.get(self.learner.logprobs.remote([row])))

    def label_gap(self, prompted: Sequence[tuple[Sample, Prompt]], codes: Sequence[Any]) -> float:
        """Largest |the engine's logprob of a label's code - the learner's|, asked for while groups
        are being written."""
        sampling = Sampling(n=4, temperature=1.0, max_tokens=48, seed=9)
        writing = self.rollouts.answer.remote([sample for sample, _ in prompted], sampling)
        calls = [
            self.rollouts.label_logprobs.remote(sample.video, prompt, codes)
            for sample, prompt in prompted
        ]
        responses = tuple(Response(token_ids=TokenIds(code)) for code in codes)
        rows = [Row(prompt=p, video=s.video, responses=responses) for s, p in prompted]
        learner = self.get(self.learner.logprobs.remote(rows))
        sums = [[sum(tokens) for tokens in row] for row in learner]
        rollouts = self.get(writing)
        assert all(len(c.token_ids) for r in rollouts for c in r.completions)
        assert (
            _gap(
                [[c.logprobs for c in r.completions] for r in rollouts],
                self.get(self.learner.logprobs.remote(rows_of([s for s, _ in prompted], rollouts))),
            )
            < 1e-5
        ), "an answer's logprobs changed beside these requests"
        return _gap([self.get(calls)], [sums])

    def bytes_of_group(self, sample: Sample, seed: int = 5) -> tuple[int, int, Rollout]:
        """Bytes that a group of 8 sends to the engine core, those of its clip's pixels, the
        group."""
        sampling = Sampling(n=8, temperature=1.0, max_tokens=16, seed=seed)
        sent: tuple[int, int, Rollout] = self.get(
            self.rollouts.bytes_into_core.remote(sample, sampling)
        )
        return sent

    def embeddings_agree(self, sample: Sample, folder: Path) -> float:
        """Largest difference that it makes to a group's logprobs, the engine's and then the
        learner's, whether the engine gets embeddings or pixels. Asserts that it got embeddings."""
        self.publish()  # empties the engine's caches
        self.get(self.rollouts.share_embeddings.remote(folder))
        _, pixels, first = self.bytes_of_group(sample)
        self.publish()
        sent, _, second = self.bytes_of_group(sample)
        self.get(self.rollouts.share_embeddings.remote(None))
        print(f"of {pixels} bytes of pixels, {sent} are sent as embeddings")  # noqa: T201
        assert sent < 0.5 * pixels, "the engine got the pixels a second time"
        tokens = [[tuple(c.token_ids) for c in r.completions] for r in (first, second)]
        assert tokens[0] == tokens[1]
        between = _gap(
            [[c.logprobs for c in first.completions]], [[c.logprobs for c in second.completions]]
        )
        learner = self.get(self.learner.logprobs.remote(rows_of([sample], [second])))
        return max(between, _gap([[c.logprobs for c in second.completions]], learner))

    def narrated(self, samples: Sequence[Sample], folder: Path) -> list[Sample]:
        """The samples as narratives of a tokenizer of random codes, which the engine knows."""
        from tests.video.semantic_tokens.builders import tokenizer
        from video.address import with_tokens
        from video.semantic_tokens.codes_file import write_codes
        from video.semantic_tokens.narrated_clips import Narration

        made = tokenizer()
        made.save(folder / "tokenizer")
        keys = [self.get(self.rollouts.key_of.remote(sample.video)) for sample in samples]
        codes = [(key, (n % 8, n % 8, 3, 5)) for n, key in enumerate(keys)]
        write_codes(folder / "codes.jsonl", made.version, 8, codes)
        narration = Narration(folder=folder / "tokenizer", codes=folder / "codes.jsonl")
        self.get(self.rollouts.use_tokens.remote(narration))
        return [with_tokens(sample, made.version) for sample in samples]

    def train(self) -> None:
        """Move the learner away from the engine: one large step towards answers read backwards."""
        rows = rows_of(self.samples[:2], self.answer(self.samples[:2], n=2), backwards=True)
        self.get(self.learner.train.remote(rows))

    def publish(
        self,
        spoil: Callable[[dict], dict | None] = lambda chunk: chunk,
        alter: Callable = iter,
        client: type[Client] = Client,
        bucket_mb: float = 1.0,
    ) -> None:
        self.version += 1
        made = client(self.rollouts, self.version, spoil)
        self.get(self.learner.publish.remote(made, alter, bucket_mb))


def rows_of(
    samples: Sequence[Sample], rollouts: Sequence[Rollout], backwards: bool = False
) -> list[Row]:
    step = -1 if backwards else 1
    return [
        Row(
            prompt=rollout.prompt,
            video=sample.video,
            responses=tuple(Response(token_ids=c.token_ids[::step]) for c in rollout.completions),
        )
        for sample, rollout in zip(samples, rollouts, strict=True)
    ]


def _gap(found: Any, expected: Any) -> float:
    return max(
        abs(a - b)
        for group, other in zip(found, expected, strict=True)
        for values, others in zip(group, other, strict=True)
        for a, b in zip(values, others, strict=True)
    )


@pytest.fixture(scope="session")
def make_place(
    one_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., SimpleNamespace]:
    """``make_place("qwen3_vl")``: an untrained model of that family, clips and labels on disk."""
    import ray

    from cluster.demo.clips import make_demo_data
    from cluster.demo.events import DEFINITIONS
    from rollout.manifest import read_manifest
    from tests.tiny_models import write_tiny_model

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # tests are no package
    root = tmp_path_factory.mktemp("end_to_end")
    labels = LabelSet(labels=tuple(Label(name=n, definition=d) for n, d in DEFINITIONS.items()))
    manifest = make_demo_data(root / "data", train=40, traces=1, val=1, cal=1, test=1)
    samples = [replace(s, text=SIDE_TEXT) for s in read_manifest(manifest, labels, None)]

    def make(model_type: str, vision_heads: int = 3) -> SimpleNamespace:
        folder = root / f"{model_type}-{vision_heads}"
        # not the trained base: there, rounding to float32 alone moves logprobs by up to 5e-5
        return SimpleNamespace(
            root=folder,
            model=write_tiny_model(folder / "model", model_type, vision_heads=vision_heads),
            cache=folder / "cache",
            labels=labels,
            samples=samples,
            silent_client=SilentClient,
        )

    return make


@pytest.fixture(scope="session")
def place(make_place: Callable[..., SimpleNamespace]) -> SimpleNamespace:
    """A Qwen2.5-VL, clips and labels on disk."""
    return make_place("qwen2_5_vl")


def start_in(place: SimpleNamespace, **settings: Any) -> Any:
    """A rollout worker with its engine, in an actor; ``settings``: of its recipe."""
    import ray

    rollouts = ray.remote(Rollouts).options(num_cpus=0).remote()
    started = rollouts.start.remote(place.model, place.cache, place.labels, **settings)
    ray.get(started, timeout=300)
    return rollouts


@pytest.fixture(scope="session")
def start_rollouts(place: SimpleNamespace) -> Callable[[], Any]:
    return lambda: start_in(place)


@pytest.fixture(scope="session")
def open_stage() -> Callable[..., AbstractContextManager[Stage]]:
    """``with open_stage(place) as stage``: one engine and one learner."""

    @contextmanager
    def opened(place: SimpleNamespace, **settings: Any) -> Iterator[Stage]:
        import ray

        learner = ray.remote(Learner).options(num_cpus=0).remote(place.model, place.cache)
        rollouts = start_in(place, **settings)
        yield Stage(rollouts, learner, place.samples, place)
        with suppress(ray.exceptions.RayActorError):  # a test may have killed it
            ray.get(rollouts.stop.remote(), timeout=60)
        ray.kill(rollouts)
        ray.kill(learner)

    return opened


@pytest.fixture(scope="module")
def stage(
    ray_session: None,
    place: SimpleNamespace,
    open_stage: Callable[..., AbstractContextManager[Stage]],
    request: pytest.FixtureRequest,
) -> Iterator[Stage]:
    """One engine and one learner for a module's tests."""
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    with open_stage(place) as stage:
        yield stage
