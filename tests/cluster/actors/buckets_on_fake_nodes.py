"""Buckets of weights on fake nodes with object stores of their own. Prints what each node pulled,
and in which order things happened, as JSON. (No test file.)

A process of its own: the tests' own Ray stays up.
"""

import json
import sys
from typing import Any

import numpy as np
import ray
from ray._private.internal_api import node_stats
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.actors.bucket_client import BucketClient
from cluster.actors.engine_calls import EngineSet
from tests.cluster.actors import test_bucket_client
from tests.cluster.actors.seats_on_fake_nodes import fake_nodes
from tests.cluster.actors.test_bucket_client import VERSION, Host
from wire.shared_memory import SharedBuffer

SIZE, COUNT, PER_NODE = 6 * 2**20, 6, 2


def store_bytes() -> dict[str, int]:
    """Bytes that came into each node's object store since it is up, by Ray's own count."""
    return {
        node["NodeID"]: node_stats(
            node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
        ).store_stats.cumulative_created_bytes
        for node in ray.nodes()
    }


def publish(hosts: dict[str, Any]) -> BucketClient:
    """Buckets in two places by turns, as the learner sends them."""
    client, buffers = BucketClient(60.0), [SharedBuffer(SIZE) for _ in range(2)]
    client.open(VERSION, EngineSet(epoch=0, actors=hosts))
    client.start_weight_update()
    for index in range(COUNT):
        buffer = buffers[index % 2]
        buffer.data[:] = np.uint8(index)
        description = {"size": SIZE - index, "path": buffer.path, "data": buffer.data}
        description["num_buckets"] = COUNT
        client.update_weights(description)
    client.finish_weight_update()
    return client


def main() -> None:
    ray.cloudpickle.register_pickle_by_value(test_bucket_client)
    actor = ray.remote(num_cpus=0)(Host)
    with fake_nodes(3, 1) as nodes:
        here = ray.get_runtime_context().get_node_id()
        nodes.sort(key=lambda node: node != here)  # rank 0's own first
        hosts = {
            f"{place}-{index}": actor.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(None, "slow")
            for place, node in enumerate(nodes)
            for index in range(PER_NODE)
        }
        ray.get([host.told.remote() for host in hosts.values()])
        before = store_bytes()
        client = publish(hosts)
        after = store_bytes()
        seen = {name: ray.get(host.seen.remote()) for name, host in hosts.items()}
        sums = {name: ray.get(host.told.remote())[2] for name, host in hosts.items()}
        json.dump(
            {
                "failures": client.failures,
                "pulled": [(after[node] - before[node]) / (COUNT * SIZE) for node in nodes],
                "events": seen,
                "sums": sums,
            },
            sys.stdout,
        )


if __name__ == "__main__":
    main()
