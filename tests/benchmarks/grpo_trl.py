"""TRL's side of grpo_step.py: GRPOTrainer in a process of its own, one step each time it is asked.

    "go" -> dataloader, generation, reward, loss, update -> TrlStep          (over a pipe)

With the settings that were fastest here for the same objective: see grpo_step.py.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal

from tests.benchmarks.grpo_material import (
    EPSILON_HIGH,
    EPSILON_LOW,
    LEARNING_RATE,
    Material,
    frames_as_images,
    prompt_text,
)

Mode = Literal["generate", "vllm"]
"""What writes TRL's rollouts: transformers' ``generate``, or vLLM in the trainer's process."""

_THREADS = 2
_BLOCKED = ("video_pad", "image_pad", "vision_pad", "vision_start", "vision_end")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrlStep:
    """One step of the trainer, and what it was made of."""

    seconds: float
    generation: float
    """Rendering, images, tokens."""
    old_logprobs: float
    """The trainer's own logprobs of what vLLM wrote, for the importance weights."""
    preparation: float
    """The rest before learning: images once more, reward, advantages."""
    prompt_tokens: int
    """Of each prompt."""
    response_tokens: int
    """Of all rollouts."""
    rollouts: int
    loss: float
    reward_std: float
    logprob_gap: float
    """Mean difference between sampler and trainer, nats; 0 where nothing was compared."""

    @property
    def learning(self) -> float:
        """Forward, backward and optimiser; the dataloader's part, of pictures in memory, is in
        it."""
        return self.seconds - self.generation - self.old_logprobs - self.preparation


class TrlSide:
    """The process and the pipe to it."""

    def __init__(self, material: Material, mode: Mode) -> None:
        context = get_context("spawn")  # a fork would share our threads' locks
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, material, mode), daemon=True)
        self._process.start()
        theirs.close()
        self.settings: dict[str, Any] = {}

    def step(self) -> TrlStep:
        """One step; waits until it is done, the first time until the trainer is up."""
        self.settings = self.settings or self._receive()
        self._pipe.send("go")
        return self._receive()  # type: ignore[no-any-return]

    def finish(self) -> float:
        """The largest change of a weight since the start; ends the process."""
        self._pipe.send("end")
        changed: float = self._receive()
        self._process.join(60)
        return changed

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def kill(self) -> None:
        """If it is still there."""
        self._process.kill()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("TRL's process ended; its last words are above") from error


def _serve(pipe: Connection, material: Material, mode: Mode) -> None:
    os.environ.update(
        OMP_NUM_THREADS=str(_THREADS),
        HF_HUB_OFFLINE="1",
        VLLM_LOGGING_LEVEL="ERROR",
        VLLM_NO_USAGE_STATS="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the trainer loads weights into the engine's worker
        TORCH_COMPILE_DISABLE="1",
    )
    import torch

    torch.set_num_threads(_THREADS)
    if mode == "vllm":
        # else vLLM on CPU packs its weights at load, and every update is lost or fails
        import rollout.vllm_extension  # noqa: F401
    trainer = _make_trainer(pipe, material, mode)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    pipe.send(max(float((after[name] - value).abs().max()) for name, value in before.items()))


def _make_trainer(pipe: Connection, material: Material, mode: Mode) -> Any:
    import transformers
    from trl import GRPOConfig, GRPOTrainer

    clock: dict[str, float] = {}

    class Timed(GRPOTrainer):
        """Takes the times of its parts and looks at what they gave; changes nothing."""

        def _generate(self, *args: Any) -> Any:
            with _timed(clock, "generation"):
                return super()._generate(*args)

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            if torch_has_gradients():
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)
            with _timed(clock, "old_logprobs"):
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

        def _generate_and_score_completions(self, *args: Any) -> Any:
            with _timed(clock, "all_before_learning"):
                found = super()._generate_and_score_completions(*args)
            clock["prompt_tokens"] = float(found["prompt_mask"].sum(1).max())
            clock["response_tokens"] = float(found["completion_mask"].sum())
            clock["rollouts"] = float(len(found["completion_mask"]))
            clock["reward_std"] = float(self._metrics["train"]["reward_std"][-1])
            gaps = self._metrics["train"].get("sampling/sampling_logp_difference/mean")
            clock["logprob_gap"] = float(gaps[-1]) if gaps else 0.0
            return found

        def training_step(self, *args: Any) -> Any:
            loss = super().training_step(*args)
            clock["loss"] = clock.get("loss", 0.0) + float(loss)
            return loss

    def torch_has_gradients() -> bool:
        import torch

        return torch.is_grad_enabled()

    size = material.size
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        material.model, dtype="float32"
    )
    model.model.visual.requires_grad_(False)
    processor = transformers.AutoProcessor.from_pretrained(material.model, padding_side="left")
    ids = processor.tokenizer.convert_tokens_to_ids([f"<|{kind}|>" for kind in _BLOCKED])
    accumulation = size.rollouts // size.trl_batch
    config = GRPOConfig(
        output_dir=str(material.folder / f"trl-{mode}"),
        max_steps=size.all_steps,
        per_device_train_batch_size=size.trl_batch,
        gradient_accumulation_steps=accumulation,
        num_generations=size.group_size,
        max_completion_length=size.response,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        epsilon=EPSILON_LOW,
        epsilon_high=EPSILON_HIGH,
        loss_type="dapo",
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_vllm=mode == "vllm",
        vllm_max_model_length=2048,
        generation_kwargs=(
            {"logit_bias": dict.fromkeys(ids, -100.0)}
            if mode == "vllm"
            else {"suppress_tokens": ids}
        ),
    )
    return Timed(
        model=model,
        reward_funcs=_reward,
        args=config,
        train_dataset=_dataset(material),
        processing_class=processor,
        callbacks=[_turns(pipe, clock, size.all_steps, _settings(config))],
    )


def _settings(config: Any) -> dict[str, Any]:
    """What to print of TRL's."""
    import torch
    import trl
    import vllm

    names = (
        "use_vllm",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "num_iterations",
        "num_generations",
        "max_completion_length",
        "loss_type",
        "beta",
        "vllm_importance_sampling_correction",
        "optim",
        "learning_rate",
        "bf16",
        "gradient_checkpointing",
    )
    versions = {"trl": trl.__version__, "vllm": vllm.__version__}
    chosen = {name: getattr(config, name) for name in names}
    return {**versions, "threads": torch.get_num_threads(), **chosen}


def _reward(completions: list[Any], **_: Any) -> list[float]:
    """Ours in TRL's form."""
    from tests.benchmarks.grpo_reward import compute_score

    return [compute_score("", completion[0]["content"], "") for completion in completions]


def _dataset(material: Material) -> Any:
    """Prompts in the clips' order. The pictures wait in memory: TRL decodes nothing."""
    from datasets import Dataset
    from PIL import Image

    size = material.size
    pictures = [
        [Image.fromarray(frame) for frame in frames_as_images(clip, size)]
        for clip in material.clips()
    ]
    prompt = [{"role": "user", "content": prompt_text(size)}]

    def load(rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        return {
            "prompt": [prompt] * len(rows["clip"]),
            "images": [pictures[i] for i in rows["clip"]],
        }

    return Dataset.from_dict({"clip": list(range(len(pictures)))}).with_transform(load)


def _turns(pipe: Connection, clock: dict[str, float], steps: int, settings: dict[str, Any]) -> Any:
    """Waits for a turn before each step, and reports after it."""
    import transformers

    class Turns(transformers.TrainerCallback):
        def _wait(self) -> None:
            assert pipe.recv() in ("go", "end")
            clock.clear()
            self._began = time.perf_counter()

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            pipe.send(settings)
            self._wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seconds = time.perf_counter() - self._began
            pipe.send(_step(seconds, clock))
            self._wait()

    return Turns()


def _step(seconds: float, clock: dict[str, float]) -> TrlStep:
    old = clock.get("old_logprobs", 0.0)
    return TrlStep(
        seconds=seconds,
        generation=clock["generation"],
        old_logprobs=old,
        preparation=clock["all_before_learning"] - clock["generation"] - old,
        prompt_tokens=int(clock["prompt_tokens"]),
        response_tokens=int(clock["response_tokens"]),
        rollouts=int(clock["rollouts"]),
        loss=clock["loss"],
        reward_std=clock["reward_std"],
        logprob_gap=clock["logprob_gap"],
    )


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[name] = clock.get(name, 0.0) + time.perf_counter() - start
