"""LoRA on the real engines: adapters to vLLM beside those in use, and whole runs with LoRA on."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calibrate.classifier import load_classifier
from cluster.config.recipe import RunConfig
from learner.config import OptimConfig
from learner.shared_prefix.rows import Response, Row
from rollout.engine import Sampling
from rollout.worker import Rollout
from tests.end_to_end.runs import LABELS, metrics, run, summary, write_recipe
from tests.tiny_models import MODEL_TYPES, write_tiny_model
from wire.adapters import CONFIG_NAME, WEIGHTS_NAME, AdapterFiles
from wire.errors import WeightUpdateError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion, Sample

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(580)]

EXACT = 1e-4
RANK = 8


@dataclass(frozen=True)
class Seen:
    """What happened; the tests say what should have."""

    gaps: list[float]
    """Largest |logprob as sampled - the learner's|: at the start, and after each of two updates."""
    probes: list[float]
    moved: float
    """The same between the first answers and the updated learner."""
    cached: list[tuple[int, int]]
    """Prompt tokens from the prefix cache: of a prompt's first request to a version, and of the
    next."""
    overtaken: list[Rollout]
    """Begun under version 3, ended after version 4 was served."""
    overtaken_gap: float
    """To the learner taken back to version 3."""
    overtaken_gap_to_next: float
    num_in_flight: int
    """Of them, those that still ran under version 3 when version 4 was served."""
    next_version: PolicyVersion
    next_gap: float
    """Of a request that began while the overtaken one ran."""
    held_meanwhile: set[int]
    held_after: set[int]
    faults: list[str]
    after_faults: float
    adapter_bytes: int
    model_bytes: int
    models_sent: int


class Scene:
    """Real pools, and the questions that the story asks."""

    def __init__(self, rollouts: Any, learner: Any, samples: list[Sample], sync: Any) -> None:
        self.rollouts, self.learner, self.samples, self.sync = (
            rollouts,
            learner,
            samples,
            sync,
        )

    async def answer(self, samples: Sequence[Sample], n: int = 4, tokens: int = 32) -> list[Any]:
        sampling = Sampling(n=n, temperature=1.0, max_tokens=tokens, seed=3)
        found = await asyncio.gather(*[self.rollouts.answer(s, sampling) for s in samples])
        assert [r.failures for r in found] == [()] * len(samples)
        return list(found)

    async def gap(self, rollouts: Sequence[Rollout], samples: Sequence[Sample]) -> float:
        rows = rows_of(rollouts, samples)
        found = await self.learner.logprobs(rows)
        return max(
            abs(a - b)
            for rollout, row in zip(rollouts, found, strict=True)
            for completion, values in zip(rollout.completions, row, strict=True)
            for a, b in zip(completion.logprobs, values, strict=True)
        )

    async def train(self) -> None:
        rollouts = await self.answer(self.samples[:2], n=2)
        rows = rows_of(rollouts, self.samples[:2], backwards=True)
        await self.learner.train_step(rows, "supervised", 1e-2)

    async def publish(self, step: int) -> float:
        report = await self.sync.publish(PolicyVersion(attempt=0, step=step))
        assert report.num_out_of_service == 0
        return float(report.max_logprob_diff)


def rows_of(
    rollouts: Sequence[Rollout], samples: Sequence[Sample], backwards: bool = False
) -> list[Row]:
    turn = -1 if backwards else 1
    return [
        Row(
            prompt=rollout.prompt,  # type: ignore[arg-type]
            video=sample.video,
            responses=tuple(Response(token_ids=c.token_ids[::turn]) for c in rollout.completions),
        )
        for rollout, sample in zip(rollouts, samples, strict=True)
    ]


def make_config(place: SimpleNamespace) -> RunConfig:
    names = [{"name": name, "definition": text} for name, text in LABELS.items()]
    engine = {"dtype": "float32", "block_size": 32, "num_threads": 1, "group_size": 4}
    lengths = {"max_prompt_length": 512, "max_response_length": 600, "max_batched_tokens": 600}
    return RunConfig.model_validate(
        {
            "model": place.model,
            "labels": names,
            "data": {"manifest": "unused", "use_side_text": True},
            "rollout": {**engine, **lengths},
            "learner": {
                "dtype": "float32",
                "num_threads": 1,
                "zero_stage": 1,
                "lora": {"rank": RANK, "alpha": 16},
            },
            "transfer": {"kind": "object_store", "bucket_mb": 1},
            "grpo": {"max_staleness": 1},
        }
    )


async def tell(place: SimpleNamespace, config: RunConfig, folder: Path) -> Seen:
    import ray

    from cluster.actors import placement
    from cluster.actors.learner_group import LearnerGroup
    from cluster.actors.rollout_pool import RolloutPool
    from cluster.weight_sync.adapter import AdapterSync
    from cluster.weight_sync.parity_probe import probe_row
    from tests.real_workers import with_cache

    first = PolicyVersion(attempt=0, step=0)
    config = with_cache(config, place.cache)
    seats = await placement.reserve(config)
    rollouts = RolloutPool(config, seats.workers)
    learner = LearnerGroup(config, seats.ranks)
    try:
        await asyncio.gather(rollouts.start(str(place.model), first), learner.start())
        await learner.begin(str(place.model), OptimConfig(learning_rate=1e-2))
        await learner.connect(rollouts.client())
        prompt = await rollouts.prompt(place.samples[0], "trace")
        probe = probe_row(
            Row(
                prompt=prompt,
                video=place.samples[0].video,
                responses=(Response(token_ids=TokenIds((9,))),),
            ),
            tuple(range(60, 90)),
        )
        sync = AdapterSync(rollouts, learner, probe, EXACT)
        actor = rollouts._fleet.actors["rollout-0"]
        return await story(Scene(rollouts, learner, place.samples, sync), actor, place, folder)
    finally:
        learner.stop()
        await rollouts.stop()
        seats.release()
        assert ray.is_initialized()


async def story(scene: Scene, actor: Any, place: SimpleNamespace, folder: Path) -> Seen:
    sent = []
    whole = scene.learner.publish

    async def counted(version: PolicyVersion, names: Sequence[str]) -> Any:
        sent.append(version)
        return await whole(version, names)

    scene.learner.publish = counted
    two = scene.samples[:2]
    gaps, probes, cached = [], [await scene.publish(1)], []
    began = await scene.answer(two)
    gaps.append(await scene.gap(began, two))
    for step in (2, 3):
        await scene.train()
        moved = await scene.gap(began, two)
        probes.append(await scene.publish(step))
        fresh = await scene.answer(scene.samples[1:2], n=1)  # of more, one finds another's prefix
        gaps.append(await scene.gap(fresh, scene.samples[1:2]))
        again = await scene.answer(scene.samples[1:2])
        cached.append((fresh[0].num_cached_tokens, again[0].num_cached_tokens))
        gaps.append(await scene.gap(again, scene.samples[1:2]))
    await scene.learner.save(str(folder / "checkpoints"), "step-000003", {})
    await scene.train()
    many = scene.samples[2:8]
    running = asyncio.create_task(scene.answer(many, n=8, tokens=600))
    while (await actor.num_requests.remote(3)) < len(many):  # their clips are decoded first
        assert not running.done()
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    probes.append(await scene.publish(4))
    num_in_flight = await actor.num_requests.remote(3)
    (fresh_rollout,) = await scene.answer(scene.samples[8:9])
    held_meanwhile = await actor.held_adapters.remote()
    overtaken = await running
    to_next = await scene.gap(overtaken, many)
    next_gap = await scene.gap([fresh_rollout], scene.samples[8:9])
    held_after = await actor.held_adapters.remote()
    await scene.learner.export(str(folder / "stage/model"))
    faults = await try_faults(actor, folder / "stage/adapter")
    after_faults = await scene.gap(await scene.answer(two), two)
    await scene.learner.load(str(folder / "checkpoints"), "step-000003")
    return Seen(
        gaps=gaps,
        probes=probes,
        moved=moved,
        cached=cached,
        overtaken=overtaken,
        overtaken_gap=await scene.gap(overtaken, many),
        overtaken_gap_to_next=to_next,
        num_in_flight=num_in_flight,
        next_version=fresh_rollout.completions[0].policy_version,
        next_gap=next_gap,
        held_meanwhile=held_meanwhile,
        held_after=held_after,
        faults=faults,
        after_faults=after_faults,
        adapter_bytes=sum(file.stat().st_size for file in (folder / "stage/adapter").iterdir()),
        model_bytes=sum(f.stat().st_size for f in place.model.glob("*.safetensors")),
        models_sent=len(sent),
    )


async def try_faults(actor: Any, adapter: Path) -> list[str]:
    """What the engine says of a damaged adapter, of one for a layer that it has not, and of one
    that is too large."""
    from safetensors.torch import load_file

    config, weights = (adapter / CONFIG_NAME).read_text(), load_file(adapter / WEIGHTS_NAME)
    whole = AdapterFiles.of(config, weights)
    broken = bytearray(whole.weights)
    broken[-9] ^= 1
    astray = {name.replace("layers.0.", "layers.9."): t for name, t in weights.items()}
    large = json.dumps({**json.loads(config), "r": 4 * RANK})
    said = []
    for files in (
        replace(whole, weights=bytes(broken)),
        AdapterFiles.of(config, astray),
        AdapterFiles.of(large, weights),
    ):
        try:
            await actor.load_adapter.remote(PolicyVersion(attempt=0, step=9), files)
        except WeightUpdateError as error:
            said.append(str(error))
    return said


@pytest.fixture(scope="module", params=MODEL_TYPES)
def seen(
    request: pytest.FixtureRequest, make_place: Any, tmp_path_factory: pytest.TempPathFactory
) -> Seen:
    import ray

    from cluster.actors import rollout_pool as actors
    from cluster.actors.rollout_actor import RolloutActor

    class Host(RolloutActor):
        async def held_adapters(self) -> set[int]:
            return set(await self._engine._llm.list_loras())  # type: ignore[union-attr]

        async def num_requests(self, step: int) -> int:
            held = self.worker._adapters._held
            return sum(h.requests for h in held if h.adapter.version.step == step)

    place, folder = make_place(request.param), tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors, "RemoteRolloutActor", ray.remote(Host))
        return asyncio.run(tell(place, make_config(place), folder))


def test_engine_and_learner_agree_at_the_start_and_after_each_adapter(seen: Seen):
    assert max(seen.probes) < EXACT
    assert max(seen.gaps) < EXACT
    assert seen.moved > 1e-2


def test_the_model_is_sent_once_and_then_little(seen: Seen):
    assert seen.models_sent == 1
    assert seen.adapter_bytes < seen.model_bytes / 3  # of a tiny model; rank 8 of hidden size 128


def test_a_request_in_flight_ends_under_the_adapter_it_began_with(seen: Seen):
    assert seen.num_in_flight == len(seen.overtaken) == 6
    assert {c.policy_version.step for r in seen.overtaken for c in r.completions} == {3}
    assert {r.policy_version.step for r in seen.overtaken} == {3}
    assert seen.overtaken_gap < EXACT
    assert seen.overtaken_gap_to_next > 1e-2


def test_a_request_that_begins_meanwhile_gets_the_new_adapter(seen: Seen):
    assert seen.next_version.step == 4
    assert seen.next_gap < EXACT
    assert len(seen.held_meanwhile) == 2


def test_an_old_adapter_goes_when_its_last_trace_has_ended(seen: Seen):
    assert len(seen.held_after) == 1
    assert seen.held_after < seen.held_meanwhile


def test_no_prefix_of_another_version_is_reused(seen: Seen):
    for first, again in seen.cached:
        assert first == 0
        assert again > 0


def test_a_faulty_adapter_is_refused_and_the_old_one_goes_on(seen: Seen):
    damaged, astray, large = seen.faults
    assert "arrived damaged" in damaged
    assert "no place for" in astray
    assert "max_lora_rank" in large
    assert seen.after_faults < EXACT


REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return solution_str.count("e") / 8  # what an untrained model can get better at
"""
SETTINGS = {
    "adapter": ["learner.lora={rank=8, alpha=16}", "grpo.max_staleness=1"],
    "merged": [
        "learner.lora={rank=8, alpha=16, handoff='merged'}",
        "learner.freeze_vision_tower=false",
    ],
}


@pytest.fixture(scope="module", params=SETTINGS)
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Path:
    """The directory of a small run with LoRA."""
    import ray

    from cluster.demo.clips import make_demo_data

    folder = tmp_path_factory.mktemp("run")
    write_tiny_model(folder / "model", "qwen2_5_vl")
    (folder / "mine.py").write_text(REWARD)
    manifest = make_demo_data(folder / "data", train=16, traces=8, val=1, cal=6, test=6)
    recipe = write_recipe(folder, Path("model"), manifest, LABELS)
    reward = f"reward.terms=[{{function='{folder / 'mine.py'}:compute_score'}}]"
    published = "calibrate.candidates=['verdict']"
    settings = [reward, published, "rollout.max_prompt_length=512", *SETTINGS[request.param]]
    words = [word for setting in settings for word in ("--set", setting)]
    done = run(recipe, folder / "out", *words, address=ray.get_runtime_context().gcs_address)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


def test_every_stage_of_a_run_finishes_in_parity(finished: Path):
    names = [stage["name"] for stage in summary(finished)["stages"]]
    assert names == ["base", "coldstart", "grpo", "calibrated"]
    for row in metrics(finished, "grpo"):
        assert row["parity/probe_max_logprob_diff"] < 1e-5
        assert row["parity/max_logprob_diff"] < 1e-2  # a step of staleness; the next line is exact
        assert row["rollout/num_out_of_service"] == 0


def test_a_stage_leaves_a_whole_model_and_its_adapter(finished: Path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText as Auto

    stages = finished / "stages"
    for stage, before in (("coldstart", finished.parent / "model"), ("grpo", None)):
        base = Auto.from_pretrained(before or stages / "coldstart/model")
        whole = Auto.from_pretrained(stages / stage / "model")
        opened = PeftModel.from_pretrained(base, str(stages / stage / "adapter"))
        ids = torch.tensor([[50, 61, 72, 83]])
        with torch.no_grad(), opened.disable_adapter():
            start = opened(input_ids=ids).logits
        with torch.no_grad():
            added, merged = opened(input_ids=ids).logits, whole(input_ids=ids).logits
        assert (added - merged).abs().max() < 1e-5
        assert (added - start).abs().max() > 1e-4


def test_the_published_verdict_is_an_adapter_where_engines_serve_it_so(finished: Path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText as Auto

    classifier = load_classifier(finished)
    is_adapter = '"merged"' not in (finished / "run.json").read_text()
    assert classifier.description.sources == ("verdict",)
    assert (classifier.adapter_dir is not None) == is_adapter == (classifier.verdict_dir is None)
    policy = Auto.from_pretrained(classifier.policy_dir)
    verdict = (
        PeftModel.from_pretrained(policy, str(classifier.adapter_dir))
        if is_adapter
        else Auto.from_pretrained(str(classifier.verdict_dir))
    )
    whole = Auto.from_pretrained(finished / "stages/calibrated/model")
    ids = torch.tensor([[50, 61, 72, 83]])
    with torch.no_grad():
        assert (verdict(input_ids=ids).logits - whole(input_ids=ids).logits).abs().max() < 1e-5
    config = json.loads((finished / "run.json").read_text())
    texts = [file.read_text() for file in classifier.path.rglob("*.json")]
    assert not [text for text in texts if str(finished) in text or config["model"] in text]
