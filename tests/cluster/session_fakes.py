"""A Session whose engines and learner are small fakes; archive, scorer, renderer, run directory are
real. (No test file.)

Weights are a string: the name of the stage they were loaded from, and a ``+`` for every update.
"""

import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cluster.actors.learner_actor import WeightSyncResult
from cluster.config.recipe import RunConfig
from cluster.inputs.samples import SampleSplits
from cluster.metrics.step_timelines import StepTimelines
from cluster.resume.attempts import describe_attempt, note_attempt
from cluster.run_dir import RunDir
from cluster.session import RunResources, Session
from cluster.stages.grpo.stage import run_grpo_stage
from cluster.stages.policy_versions import Weights
from cluster.stages.stage import StageRun
from cluster.stages.stage_functions import stage_run
from learner.config import GrpoLossConfig, LoraConfig, OptimConfig
from learner.shared_prefix.largest_batch import LargestBatch
from learner.shared_prefix.rows import Response, Row, with_old_logprobs, with_ref_logprobs
from reward.scorer import Scorer
from rollout.engine import Sampling
from rollout.prompt import PromptKind
from rollout.render import Renderer
from rollout.worker import Rollout
from video.quarantine import Quarantine
from video.semantic_tokens.narrated_clips import Narration
from wire.archive.archive import Archive, next_attempt
from wire.config import validate
from wire.errors import CheckpointDamaged
from wire.types import (
    Completion,
    FinishReason,
    PolicyVersion,
    Prompt,
    Sample,
    Split,
    stable_seed,
)

T = TypeVar("T")

TOKENIZER = Path(__file__).parents[2] / "cluster/demo/base"
FIRST_STEP = 1
"""Version step of the weights that GRPO starts from in the default chain."""
NAMES = ("relapse", "repeat", "undo", "varied", "zigzag")
TEACHER = "<think>taught</think><answer>undo</answer>"

Write = Callable[[str, Sample, int], str]
"""What a policy with these weights writes about a sample, as trace number so and so."""


def right(weights: str, sample: Sample, index: int) -> str:
    """Always the true label; every trace of a clip has its own reasoning."""
    return f"<think>up {index}</think><answer>{sample.label}</answer>"


class FakeEngines:
    """A RolloutPool of one worker."""

    def __init__(self, renderer: Renderer, version: PolicyVersion, weights: str) -> None:
        self.names = ["r0"]
        self.num_workers = 1
        self.in_service = {"r0"}
        self.version, self.weights = version, weights
        self.held = {(version, weights)}
        """Every version, with the weights that it named."""
        self.wrote: list[tuple[str, str]] = []
        """Weights and clip of every request."""
        self.samplings: list[Sampling] = []
        """Of every request."""
        self.asked: list[PromptKind] = []
        self.write: Write = right
        self._renderer = renderer
        self.narrations: list[Narration] = []

    def load(self, version: PolicyVersion, weights: str) -> None:
        self.version, self.weights = version, weights
        self.held.add((version, weights))

    async def use_tower(self, tower: str | None) -> None:
        pass

    async def use_tokens(self, narration: Narration) -> None:
        self.narrations.append(narration)

    async def sleep(self) -> None:
        self.in_service.clear()

    def engines(self, names: Sequence[str]) -> Sequence[str]:
        return names

    @contextmanager
    def updating(self, version: PolicyVersion, *, others_serve: bool = False) -> Iterator[None]:
        self.in_service.clear()
        yield

    def use_weights_of(self, sync: object) -> None:
        pass

    async def some_running(self) -> None:
        pass

    async def find_alive(self, names: Sequence[str]) -> list[str]:
        return list(names)

    def update_failed(self, name: str) -> None:
        assert name not in self.in_service

    def proven(self, name: str, version: PolicyVersion) -> None:
        self.in_service.add(name)

    def client(self) -> None:
        return None

    async def cache_counts(self) -> dict[str, int]:
        return {"clip_hits": len(self.wrote) - 1, "clip_misses": 1, "restarted_traces": 0}

    async def prompt(self, sample: Sample, ask: PromptKind) -> Prompt:
        self.asked.append(ask)
        ids = (1, stable_seed(sample.video, str(ask)), 2)
        return Prompt(token_ids=ids, clip_key=sample.video, fingerprint="f")

    async def answer(
        self,
        sample: Sample,
        sampling: Sampling,
        upcoming: str | None = None,
        ask: PromptKind = "trace",
    ) -> Rollout:
        self.wrote.append((self.weights, sample.video))
        self.samplings.append(sampling)
        completions = tuple(self._complete(sample, index) for index in range(sampling.n))
        prompt = await self.prompt(sample, ask)
        return Rollout(
            prompt=prompt,
            completions=completions,
            failures=(),
            policy_version=self.version,
            num_cached_tokens=min(sampling.n - 1, len(prompt.token_ids)),
        )

    async def logprobs(
        self, name: str, video: str, prompt: Prompt, response: Sequence[int], adapter_of: object
    ) -> list[float]:
        return [-1.0] * len(response)

    def _complete(self, sample: Sample, index: int) -> Completion:
        text = self.write(self.weights, sample, index)
        ids = self._renderer.target(text)
        return Completion(
            token_ids=ids,
            logprobs=(-0.5,) * len(ids),
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=self.version,
        )


class FakeLearner:
    """A LearnerGroup that counts; a response that it has ``memory`` of is likely."""

    def __init__(self, engines: FakeEngines) -> None:
        self.weights = ""
        self.began: list[str] = []
        self.loras: list[LoraConfig | None] = []
        """LoRA of each training that began, where it has its own."""
        self.steps: list[tuple[str, list[Row]]] = []
        """Weights before, and rows, of every update."""
        self.memory: list[tuple[int, ...]] = []
        """Prompts and responses, in one, that are likely."""
        self.scored: list[Row] = []
        self.prepared: list[list[str]] = []
        """Clips that were to be made ready, of each call."""
        self.referred: list[Row] = []
        """Those that the reference model was asked about."""
        self.narrations: list[Narration] = []
        self._engines = engines

    async def begin(
        self,
        model_dir: str,
        optim: OptimConfig,
        loss: GrpoLossConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        folder = Path(model_dir)
        self.weights = folder.parent.name if folder.name == "model" else folder.name
        self.began.append(self.weights)
        self.loras.append(lora)

    async def connect(self, client: None) -> None:
        pass

    async def publish(self, version: PolicyVersion, names: Sequence[str]) -> WeightSyncResult:
        self._engines.load(version, self.weights)
        return WeightSyncResult(failures={}, figures={})

    async def train_step(
        self, rows: Sequence[Row], objective: str, learning_rate: float
    ) -> dict[str, float]:
        self.steps.append((self.weights, list(rows)))
        self.weights += "+"
        return {"nll": 0.0}

    async def update(self, do: Callable[[], Awaitable[T]], again: object = None) -> T:
        return await do()

    async def rest(self) -> None:
        pass

    async def tower(self) -> str | None:
        return "tower"

    async def use_tokens(self, narration: Narration) -> None:
        self.narrations.append(narration)

    async def adapter_facts(self) -> None:
        return None

    def prepare(self, rows: Sequence[Row]) -> None:
        self.prepared.append([row.video for row in rows])

    async def preflight(self, largest: LargestBatch, refers: bool) -> float:
        return 1.0

    async def with_old_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        return with_old_logprobs(rows, [[self._of(r) for r in row.responses] for row in rows])

    async def with_ref_logprobs(self, rows: Sequence[Row]) -> list[Row]:
        self.referred += rows
        return with_ref_logprobs(rows, [[self._of(r) for r in row.responses] for row in rows])

    @staticmethod
    def _of(response: Response) -> list[float]:
        return [-1.0] * len(response.token_ids)

    async def logprobs(self, rows: Sequence[Row]) -> list[list[list[float]]]:
        self.scored += rows
        return [[self._logprobs(row, r.token_ids) for r in row.responses] for row in rows]

    async def save(self, directory: str, tag: str, notes: dict[str, str]) -> None:
        folder = Path(directory) / tag
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in {**notes, "weights": self.weights, "manifest.json": "{}"}.items():
            (folder / name).write_text(text)

    async def load(self, directory: str, tag: str) -> None:
        weights = Path(directory) / tag / "weights"
        if not weights.exists():
            raise CheckpointDamaged(f"checkpoint {weights.parent} is damaged: no weights")
        self.weights = weights.read_text()

    async def export(self, directory: str) -> None:
        write_model(Path(directory), self.weights)

    def _logprobs(self, row: Row, response: tuple[int, ...]) -> list[float]:
        text = (*row.prompt.token_ids, *response)
        known = any(memory[: len(text)] == text for memory in self.memory)
        return [-0.1 if known else -1.0] * len(response)


class FakeMetrics:
    """Keeps (stage, step) of every line but evaluations, all names, and the values."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.values: list[dict[str, float]] = []
        self.names: set[tuple[str, str]] = set()
        """Stage and name of every figure."""

    num_written = 0

    def write(self, stage: str, step: int, values: dict[str, float]) -> None:
        self.num_written += 1
        self.names |= {(stage, name) for name in values}
        if stage != "eval":
            self.lines.append((stage, step))
            self.values.append(dict(values))


class FakeMemory:
    """A MemoryWatch that has seen nothing."""

    peak_gb = 0.0


def make_config(**changes: Any) -> RunConfig:
    """A small run."""
    values: dict[str, Any] = {
        "model": "base-model",
        "labels": [{"name": name} for name in NAMES],
        "data": {"manifest": "m.jsonl"},
        "rollout": {"group_size": 2, "dtype": "float32"},
        "learner": {"dtype": "float32"},
        "coldstart": {"epochs": 3, "batch_size": 2},
        "grpo": {"num_steps": 3, "groups_per_step": 2, "save_every": 1},
        "calibrate": {"num_traces": 2, "epochs": 2, "batch_size": 4, "methods": ["verdict"]},
    }
    return validate(RunConfig, values | changes, "recipe")


def make_samples(**sizes: int) -> list[Sample]:
    """Samples of each split; train and cal ones with a teacher's trace."""
    counts = {"train": 8, "val": 2, "cal": 5, "test": 4} | sizes
    return [
        Sample(
            id=f"{split}-{index}",
            video=f"/clips/{split}-{index}.mp4",
            label=NAMES[index % len(NAMES)],
            split=Split(split),
            trace=TEACHER if split in ("train", "cal") else None,
        )
        for split, count in counts.items()
        for index in range(count)
    ]


def write_model(folder: Path, weights: str) -> None:
    """The files of a model whose weights are these."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)


def make_run_dir(path: Path, config: RunConfig, *finished: str) -> RunDir:
    """A run directory in which these stages have finished."""
    run_dir = RunDir.open(path / "run", config, resume=False, overwrite=False)
    for stage in finished:
        if stage != "base":
            write_model(run_dir.model(stage), stage)
        run_dir.finish(stage, {"seconds": 1.0, "peak_memory_gb": 1.0, "evaluation": FIGURES})
    return run_dir


async def run_one(session: Session, name: str) -> dict[str, Any]:
    """Run a stage of the chain from the weights that are there; returns its part of done.json."""
    run = stage_run(session.config, session.run_dir, name)
    return await run.run(session, run)


def grpo_run(session: Session, model_dir: Path | str = "coldstart") -> StageRun:
    """The chain's GRPO stage from these weights, as the driver would run it; no model is kept."""
    chain = session.config.chain
    return StageRun(
        stage=chain["grpo"],
        run=run_grpo_stage,
        start=Weights(Path(model_dir), FIRST_STEP),
        first_step=chain.first_step("grpo"),
        last_step=chain.last_step("grpo"),
        exports=False,
    )


@functools.cache
def load_renderer() -> Renderer:
    """With the tokenizer that the demo ships."""
    return Renderer.load(TOKENIZER, 1000)


@contextmanager
def open_fakes(
    config: RunConfig,
    run_dir: RunDir,
    samples: Sequence[Sample],
    start: tuple[str, int],
    make_engines: type[FakeEngines] = FakeEngines,
    make_learner: Callable[[FakeEngines], Any] = FakeLearner,
) -> Iterator[tuple[Session, FakeEngines, FakeLearner, FakeMetrics]]:
    """A session of a new attempt, whose engines hold the weights ``start``."""
    renderer = load_renderer()
    attempt = next_attempt(run_dir.archive)
    note_attempt(run_dir.path, describe_attempt(config, attempt, run_dir.plan))
    engines = make_engines(renderer, PolicyVersion(attempt=attempt, step=start[1]), start[0])
    learner, metrics = make_learner(engines), FakeMetrics()
    fakes: Any = (engines, learner)
    kept: Any = metrics
    timeline = StepTimelines(run_dir.path, attempt)
    with Archive(run_dir.archive, attempt) as archive, closing(timeline):
        resources = RunResources(
            config=config,
            run_dir=run_dir,
            data=SampleSplits(samples=list(samples)),
            renderer=renderer,
            attempt=attempt,
            scorer=Scorer(config.reward, config.label_set),
            archive=archive,
            quarantine=Quarantine(run_dir.path / "quarantine.jsonl"),
            metrics=kept,
            timeline=timeline,
        )
        yield Session(resources, *fakes, start[1]), engines, learner, metrics


FIGURES = {
    "accuracy": 0.5,
    "accuracy_low": 0.4,
    "accuracy_high": 0.6,
    "macro_f1": 0.5,
    "balanced_accuracy": 0.5,
    "ece": 0.1,
    "brier": None,
    "unparsed_frac": 0.0,
    "num_samples": 4,
    "majority_baseline": 0.2,
    "best_constant": 0.2,
}
