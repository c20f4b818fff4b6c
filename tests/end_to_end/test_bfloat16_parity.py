"""Weights of another version, or in another place, do not pass in bfloat16: real engine, real
learner, updates of a size that logprobs in bfloat16 cannot show."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster.actors.bucket_client import BucketClient
from cluster.weight_sync.parity_probe import ParityProbe, probe_row
from learner.shared_prefix.rows import Response, Row
from tests.real_workers import make_config, open_workers
from wire.errors import WeightUpdateError
from wire.token_arrays import TokenIds
from wire.types import PolicyVersion
from wire.weights import Entry, _fingerprint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

LEARNING_RATE = 1e-6


class Faulty(BucketClient):
    """Sends the first update again as the third, whole and with its own fingerprints; in the fourth
    two tensors of one shape have each other's names."""

    count = 0
    first: ClassVar[dict[int, Any]] = {}

    def start_weight_update(self) -> None:
        self.count += 1
        super().start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        header, data = update_info["header"], update_info["data"]
        if self.count == 1:
            self.first[header["index"]] = header, data.copy()
        if self.count in (3, 4):  # both tries
            header, old = self.first[header["index"]]
            data[: len(old)] = old
        if self.count in (5, 6):
            header = exchanged(header, data)
        super().update_weights({**update_info, "header": header})


def exchanged(header: dict[str, Any], data: Any) -> dict[str, Any]:
    entries = [Entry(*entry) for entry in header["entries"]]
    first, second = (
        i
        for i, entry in enumerate(entries)
        if entry.name.endswith(("0.mlp.up_proj.weight", "0.mlp.gate_proj.weight"))
        and "language_model" in entry.name
    )
    one, other = entries[first], entries[second]
    entries[first] = one._replace(name=other.name)
    entries[second] = other._replace(name=one.name)
    fingerprint = _fingerprint(entries, data[: header["num_bytes"]])
    return {**header, "entries": [tuple(e) for e in entries], "fingerprint": fingerprint}


def rows_like(probe: Row) -> list[Row]:
    answers = [(41, 42, 43), (44, 45), (46, 47, 48, 49)]
    responses = tuple(
        Response(token_ids=TokenIds(ids), advantage=(-1.0) ** i) for i, ids in enumerate(answers)
    )
    return [Row(prompt=probe.prompt, video=probe.video, responses=responses)]


async def test_an_engine_serves_only_the_bits_that_were_sent(
    ray_session: None, request: pytest.FixtureRequest, place: Any, tmp_path: Path
) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)
    bfloat16 = {"dtype": "bfloat16", "num_cpus": 0.5}
    config = make_config(
        place.model,
        place.root.parent / "data" / "manifest.jsonl",
        [label.name for label in place.labels.labels],
        rollout=bfloat16,
        learner={**bfloat16, "num_cpus": 0.25},
    )
    async with (
        open_workers(config, tmp_path / "cache") as workers,
        workers.learner(Faulty) as (learner, sync),
    ):
        sync._probe = ParityProbe(
            probe_row(workers.probe, tuple(40 + 7 * i % 20 for i in range(64))),
            tolerance=config.parity.tolerance,
            noise_factor=config.parity.noise_factor,
        )

        async def publish(step: int) -> Any:
            await learner.train_step(rows_like(workers.probe), "supervised", LEARNING_RATE)
            return await sync.publish(PolicyVersion(attempt=0, step=step))

        for step in (1, 2):
            report = await publish(step)
            assert report.num_out_of_service == 0
        print(report)  # noqa: T201
        with pytest.raises(WeightUpdateError, match="not those that were sent"):
            await publish(3)  # the weights of two updates ago
        with pytest.raises(WeightUpdateError, match=r"2 of \d+ tensors .* has other values"):
            await publish(4)
        assert (await publish(5)).num_out_of_service == 0
        (name,) = workers.rollouts.names
        (digests,) = await workers.rollouts.weight_digests(name)
        assert len(digests.loaded) > 50
