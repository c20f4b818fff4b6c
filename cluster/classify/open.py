"""Opens a classifier for use: loads what its sources read, and starts vLLM in this machine.

Classifier + Machine -> Renderer, ClipStore, engines -> Pipeline -> all ended

policy, vote                  the policy's engine
verdict as adapter (LoRA)     the same engine, beside the policy
verdict with weights          a second engine; both share the device, half its memory each
head                          the policy once more, with plain transformers
servers of the machine        each of these engines behind HTTP (cluster/classify/remote_engines.py)
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrate.calibration import Calibration
from calibrate.calibrator import Source
from calibrate.classifier import CALIBRATION_FILE, Classifier
from cluster.classify.engine_log import EngineLog
from cluster.classify.machine import Machine
from cluster.classify.pipeline import Answering, Pipeline, TraceObserver
from cluster.classify.remote_engines import Part, RemoteEngines
from cluster.classify.rows import Versions
from cluster.classify.sources import LabelSource, PolicySource, VerdictSource, VoteSource
from cluster.inputs.classifier_settings import ClassifierSettings, check_renderer, settings_of
from rollout.config import RolloutConfig
from rollout.engine import Sampling
from rollout.lora import Adapter, AdapterSlots
from rollout.prompt_inputs import PromptInputs
from rollout.remote_engine import RemoteEngine
from rollout.render import Renderer
from rollout.vllm_engine import VllmEngine
from video.cache import ClipStore
from video.disk_cache.location import cache_folder
from video.processor import ClipProcessor
from wire.errors import ConfigError, DataError, DeepIntuitError, GenerationError
from wire.types import PolicyVersion

if TYPE_CHECKING:
    from cluster.classify.hidden_states import HeadSource

_BACKEND = "object_store"  # of weight updates, of which there are none
_HASH_LENGTH = 12


@asynccontextmanager
async def open_pipeline(
    classifier: Classifier,
    machine: Machine,
    *,
    num_votes: int | None = None,
    observer: TraceObserver | None = None,
    log: EngineLog | None = None,
) -> AsyncIterator[Pipeline]:
    """Open a classifier, and end its engines with the block. ``num_votes``: traces of a vote, in
    place of the classifier's. ``log``: takes what engines print; none: they print it here.

    Raises ConfigError, DataError before an engine starts; GenerationError, DeadlineExceeded if one
    does not start.
    """
    opening = _Opening(classifier, machine, log)
    async with AsyncExitStack() as ended:
        try:
            with opening.captured():
                answering = await opening.answering(num_votes, ended)
        except (
            RuntimeError,
            OSError,
            ValueError,
        ) as error:  # vLLM's own: the cause is in its process's log
            if isinstance(error, DeepIntuitError):
                raise
            raise GenerationError(_not_started(error, log)) from error
        yield Pipeline(
            answering,
            in_flight=machine.in_flight,
            clip_bytes=int(machine.clip_gb * 2**30),
            observer=observer,
        )


def _not_started(error: Exception, log: EngineLog | None) -> str:
    lines = [line for line in (log.tail() if log else ()) if "rror" in line]
    cause = f": {lines[-1].strip()}" if lines else ""
    return f"vLLM did not start ({error}){cause}; --debug shows its log"


class _Opening:
    """A classifier on its way to be answered with."""

    def __init__(self, classifier: Classifier, machine: Machine, log: EngineLog | None) -> None:
        self._classifier, self._machine, self._log = classifier, machine, log
        self._engines: list[VllmEngine | RemoteEngine] = []
        self._description = classifier.description
        content = (classifier.path / CALIBRATION_FILE).read_bytes()
        self._calibration = Calibration.from_json(content)
        self._calibrator_version = hashlib.sha256(content).hexdigest()[:_HASH_LENGTH]
        self._sources: tuple[Source, ...] = self._description.sources
        self._two_engines = "verdict" in self._sources and classifier.adapter_dir is None
        self._settings: ClassifierSettings = settings_of(
            self._description, self._machine_settings()
        )
        self._renderer = Renderer.load(
            classifier.policy_dir, self._settings.rollout.max_prompt_length
        )
        check_renderer(self._description, self._renderer)
        video = self._settings.video.model_copy(update={"cache_dir": machine.cache_dir})
        clips = ClipStore(cache_folder(video), ClipProcessor(classifier.policy_dir), video)
        self._inputs = PromptInputs(self._renderer, clips, self._settings.prompts)

    def captured(self) -> AbstractContextManager[None]:
        """What engines print during the block goes to the log, if there is one."""
        return self._log.captured() if self._log else nullcontext()

    async def answering(self, num_votes: int | None, ended: AsyncExitStack) -> Answering:
        """All started; ``ended`` ends it."""
        description, labels = self._description, self._description.shown_label_set
        k = description.answers.num_votes if num_votes is None else num_votes
        if "vote" in self._sources and k < 1:
            raise DataError(
                "the classifier votes, and its directory does not say with how many traces; fit it "
                "anew (deepintuit classify takes the number as --k)"
            )
        await self._start_engines(ended)
        policy, *others = self._engines
        sources: dict[Source, LabelSource] = {}
        for name in self._sources:
            match name:
                case "policy":
                    sources[name] = PolicySource(policy, self._inputs, labels)
                case "vote":
                    sampling = self._sampling(k, description.answers.vote_temperature)
                    sources[name] = VoteSource(policy, self._inputs, labels, sampling)
                case "verdict":
                    sources[name] = await self._verdict(policy, *others)
                case "head":
                    sources[name] = self._head(ended)
        return Answering(
            engine=policy,
            engines=tuple(self._engines),
            inputs=self._inputs,
            sources=sources,
            labels=labels,
            calibration=self._calibration,
            sampling=self._sampling(1, description.answers.temperature),
            policy=PolicyVersion.parse(description.policy_version),
            versions=Versions(
                policy=description.policy_version,
                classifier=self._classifier.version[:_HASH_LENGTH],
                calibrator=self._calibrator_version,
            ),
        )

    async def _verdict(
        self, policy: VllmEngine | RemoteEngine, own: VllmEngine | RemoteEngine | None = None
    ) -> VerdictSource:
        """``own``: the verdict's engine, where it has weights of its own."""
        codes = [self._description.label_codes[name] for name in self._description.label_names]
        if own is not None:
            return VerdictSource(own, self._inputs, codes)
        version = PolicyVersion.parse(self._description.policy_version)
        adapter = Adapter(number=1, version=version, path=str(self._classifier.adapter_dir))
        await policy.load_adapter(adapter)
        return VerdictSource(policy, self._inputs, codes, adapter)

    def _head(self, ended: AsyncExitStack) -> "HeadSource":
        from cluster.classify.hidden_states import HeadSource  # scikit-learn and all

        assert self._classifier.head_dir is not None, "a published head has files"
        head = HeadSource.load(
            self._classifier.head_dir,
            self._classifier.policy_dir,
            self._settings.rollout.dtype,
            "cuda" if self._machine.num_gpus else "cpu",
            features=self._description.head_features,
            inputs=self._inputs,
        )
        ended.callback(head.close)
        return head

    async def _start_engines(self, ended: AsyncExitStack) -> None:
        """The policy's engine, and that of a verdict with weights of its own."""
        folders = [self._classifier.policy_dir]
        if self._two_engines:
            assert self._classifier.verdict_dir is not None, "a published verdict has files"
            folders.append(self._classifier.verdict_dir)
        adapter_dir = self._classifier.adapter_dir if "verdict" in self._sources else None
        slots, engine_config = _slots(adapter_dir), self._engine_config()
        ended.push_async_callback(self._stop_engines)
        if self._machine.servers:
            await self._connect_engines(folders, engine_config, adapter_dir)
            return

        async def start(folder: Path) -> VllmEngine:
            return await VllmEngine.start(
                *(folder, engine_config, self._renderer.blocked_tokens(), _BACKEND, slots),
                seed=self._description.answers.seed,
            )

        if self._machine.num_gpus:  # one after another: each measures the memory that is left
            for folder in folders:
                self._engines.append(await start(folder))
        else:
            results = await asyncio.gather(*map(start, folders), return_exceptions=True)
            self._engines += [one for one in results if isinstance(one, VllmEngine)]
            for one in results:
                if isinstance(one, BaseException):
                    raise one

    async def _connect_engines(
        self, folders: Sequence[Path], config: RolloutConfig, adapter_dir: Path | None
    ) -> None:
        """Engines on the machine's servers, in place of those of this one."""
        servers = RemoteEngines(
            classifier=self._classifier,
            urls=self._machine.servers,
            config=config,
            renderer=self._renderer,
            video=self._settings.video,
        )
        parts: tuple[Part, ...] = ("policy", "verdict")
        for folder, part in zip(folders, parts, strict=False):
            self._engines.append(await servers.connect(folder, part, adapter_dir))

    async def _stop_engines(self) -> None:
        with self.captured():  # vLLM warns of each process that it ends
            await asyncio.gather(*[engine.end() for engine in self._engines])

    def _machine_settings(self) -> dict[str, Any]:
        machine = self._machine
        holders = 1 + self._two_engines + ("head" in self._sources)
        return {
            "num_gpus": machine.num_gpus,
            "tensor_parallel_size": max(1, machine.num_gpus),
            # waiting threads spin: engines leave a core to this process, and share the others
            "num_threads": max(1, (machine.num_threads - 1) // (1 + self._two_engines)),
            "gpu_memory_utilization": machine.gpu_memory / holders,
        }

    def _engine_config(self) -> RolloutConfig:
        """With room for a verdict's prompt, which holds the trace."""
        rollout, prompts = self._settings.rollout, self._settings.prompts
        if "verdict" not in self._sources:
            return rollout
        texts = self._renderer.num_text_tokens
        longer = texts(prompts.bare_verdict()) - texts(prompts.bare())
        room = max(0, longer) + rollout.max_response_length
        return rollout.model_copy(update={"max_prompt_length": rollout.max_prompt_length + room})

    def _sampling(self, n: int, temperature: float) -> Sampling:
        return Sampling(
            n=n,
            temperature=temperature,
            max_tokens=self._settings.rollout.max_response_length,
            seed=self._description.answers.seed,
        )


def _slots(adapter_dir: Path | None) -> AdapterSlots | None:
    """Room for the verdict's adapter in the policy's engine."""
    if adapter_dir is None:
        return None
    file = adapter_dir / "adapter_config.json"
    try:
        rank = int(json.loads(file.read_text(encoding="utf-8"))["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} names no rank (r) of its adapter: {error!r}") from error
    return AdapterSlots(rank=rank, count=1)
