"""The learner's side of NCCL transfers, with vLLM's own trainer and packing, real stores, and
engines in threads. NCCL itself is replaced by broadcasts that wait for all members, as NCCL's do.
"""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from vllm.distributed.weight_transfer import nccl_engine
from vllm.distributed.weight_transfer.packed_tensor import pack_tensors, unpack_tensor

from cluster.actors.learner_actor import WeightSyncResult
from cluster.weight_sync.full_weights import WeightSync
from learner import nccl_transfer
from learner.nccl_transfer import NcclGroupTrainer
from learner.weight_transfer import PolicySource
from tests.cluster.weight_sync.test_full_weights import EXPECTED, PROBE, VERSION, Engines
from wire.engine_group import GIVEN_UP, Meeting, Membership, join_store
from wire.errors import DeadlineExceeded, WeightUpdateError

TENSORS = {"a": torch.ones(4), "b": torch.full((2, 2), 2.0), "c": torch.arange(3.0)}
BUCKET_BYTES = 20


class Weights:
    """Three weights; counts how often they were gathered whole."""

    num_gathered = 0

    def weight_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in TENSORS.items()]

    def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
        yield from TENSORS.items()
        self.num_gathered += 1


class Aborted(Exception):
    pass


class Nccl:
    """Groups of a fixed size; each broadcast waits for all members, without a limit."""

    def __init__(self) -> None:
        self.groups: dict[bytes, Channel] = {}
        self.sizes: list[int] = []

    def unique_id(self) -> bytes:
        return f"group {len(self.groups)}".encode().ljust(128)

    def join(self, unique_id: bytes, world_size: int, rank: int = 0) -> "Communicator":
        channel = self.groups.setdefault(unique_id, Channel(threading.Barrier(world_size)))
        if rank == 0:
            self.sizes.append(world_size)
        channel.barrier.wait()
        return Communicator(channel)


@dataclass
class Channel:
    barrier: threading.Barrier
    data: Any = None


class Communicator:
    def __init__(self, channel: Channel) -> None:
        self.channel, self.is_deaf = channel, False

    def broadcast(self, tensor: torch.Tensor, src: int) -> torch.Tensor:
        try:
            if src == 0:
                self.channel.data = tensor
            self.channel.barrier.wait()
            got = self.channel.data
            self.channel.barrier.wait()  # all have it
        except threading.BrokenBarrierError as error:
            raise Aborted from error
        return got

    def destroy(self) -> None:
        if not self.is_deaf:
            self.channel.barrier.abort()


def produce(iterator: Any, group: Any, src: int, post_iter_func: Any, **sizes: int) -> None:
    """As vLLM's packed producer does, without its streams."""
    while chunk := pack_tensors(iterator, post_iter_func, sizes["buffer_size_bytes"]):
        group.broadcast(chunk.packed_tensor, src)


@dataclass
class Engine:
    """An engine's process, with the faults of its own."""

    nccl: Nccl
    fault: str = ""
    loaded: dict[str, list[Any]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    freed: threading.Event = field(default_factory=threading.Event)

    def init(self, info: dict[str, Any]) -> None:
        if self.fault == "dies before the group":
            raise ConnectionError("ActorDiedError")
        if self.fault == "never comes":
            self.freed.wait(30)
            raise WeightUpdateError("it never came")
        self.rank = info["rank_offset"]
        store = join_store(info["address"], info["port"], 60.0)
        self.meeting = Meeting(store, info["generation"])
        self.meeting.come(self.rank)
        self.meeting.wait_for_begin(info["timeout_s"])
        unique_id = base64.b64decode(info["unique_id"])
        self.communicator = self.nccl.join(unique_id, info["world_size"], self.rank)
        self.bucket_bytes = info["bucket_bytes"]

    def begin(self) -> None:
        if self.fault == "dies before the update":
            raise ConnectionError("ActorDiedError")
        self.events.append("begin")

    def receive(self, update: dict[str, Any]) -> None:
        if self.fault == "dies in the broadcast":
            raise ConnectionError("ActorDiedError")
        if self.fault == "hangs":
            self.freed.wait(30)
            raise WeightUpdateError("it hung")
        self.meeting.enter(self.rank, update["transfer"])
        self.events.append("receive")
        released = threading.Event()
        threading.Thread(target=self._watch, args=(released,), daemon=True).start()
        try:
            self._receive(update)
        except Aborted as error:
            raise WeightUpdateError(GIVEN_UP) from error
        finally:
            released.set()

    def _watch(self, released: threading.Event) -> None:
        while not released.wait(0.05):
            if self.meeting.is_given_up:
                return self.communicator.channel.barrier.abort()

    def _receive(self, update: dict[str, Any]) -> None:
        meta = list(zip(update["names"], update["dtype_names"], update["shapes"], strict=True))
        while meta:
            part, size = [], 0
            while meta and size <= self.bucket_bytes:
                name, dtype_name, shape = meta.pop(0)
                dtype = getattr(torch, dtype_name)
                num_bytes = torch.Size(shape).numel() * dtype.itemsize
                part.append((name, shape, dtype, num_bytes))
                size += num_bytes
            packed = self.communicator.broadcast(torch.empty(0), src=1)
            names, shapes, dtypes, sizes = (list(column) for column in zip(*part, strict=True))
            for name, tensor in unpack_tensor(packed, names, shapes, dtypes, sizes):
                self.loaded[name] = tensor.tolist()


class Client:
    """Calls every engine in a thread of its own, as the real one calls actors."""

    def __init__(self, engines: dict[str, Engine], update_timeout_s: float = 60.0) -> None:
        self.engines, self.update_timeout_s = engines, update_timeout_s
        self.asked: list[list[str]] = []
        self.open(list(engines))

    def open(self, names: list[str], epoch: int = 0) -> None:
        self.membership = Membership(epoch=epoch, members=tuple(names))
        self.failures: dict[str, str] = {}
        self.untried: list[str] = []
        self.is_finished = False

    def init_weight_transfer_engine(self, info: dict[str, Any]) -> None:
        first = self.membership.first_rank
        self._all(lambda name, engine: engine.init({**info, "rank_offset": first(name)}))

    def start_weight_update(self) -> None:
        self._all(lambda _, engine: engine.begin())

    def update_weights(self, update: dict[str, Any]) -> None:
        self.asked.append(list(self.membership.members))
        self._all(lambda _, engine: engine.receive(update))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.is_finished = True

    def find_unsound(self, within_s: float) -> dict[str, str]:
        names, deadline = self.membership.members, time.monotonic() + min(within_s, 1.0)
        while time.monotonic() < deadline and not self._ended.keys() >= set(names):
            time.sleep(0.02)
        ended = {name: self._ended.get(name, "no answer") for name in names}
        return {name: why for name, why in ended.items() if why and GIVEN_UP not in why}

    def break_up(self, culprits: dict[str, str], why: str) -> None:
        self.failures = culprits or dict.fromkeys(self.membership.members, why)
        self.untried = [name for name in self.membership.members if name not in self.failures]

    def _all(self, call: Callable[[str, Engine], None]) -> None:
        self._ended: dict[str, str] = {}
        ended = self._ended

        def run(name: str) -> None:
            try:
                call(name, self.engines[name])
                ended[name] = ""
            except (ConnectionError, WeightUpdateError) as error:
                ended[name] = f"{type(error).__name__}: {error}"

        for name in self.membership.members:
            threading.Thread(target=run, args=(name,), daemon=True).start()
        while len(ended) < len(self.membership.members) and not any(ended.values()):
            time.sleep(0.01)
        if failed := {name: why for name, why in ended.items() if why}:
            raise WeightUpdateError(str(failed))


class Scene:
    """Rank 0 and its engines; ``sync`` is what a hand-off does, without the probe."""

    def __init__(self, update_timeout_s: float = 60.0, **faults: str) -> None:
        self.nccl, self.weights = Nccl(), Weights()
        self.engines = {name: Engine(self.nccl, fault) for name, fault in faults.items()}
        self.client = Client(self.engines, update_timeout_s)
        self.trainer = self._trainer(is_sender=True)

    def end(self) -> None:
        """Let go of what hangs."""
        for engine in self.engines.values():
            engine.freed.set()
        for channel in self.nccl.groups.values():
            channel.barrier.abort()

    def _trainer(self, *, is_sender: bool) -> NcclGroupTrainer:
        source = PolicySource(lambda: self.weights, torch.float32, BUCKET_BYTES)
        return NcclGroupTrainer(
            client=self.client,
            source=source,
            is_sender=is_sender,
            address="127.0.0.1",
            bucket_bytes=BUCKET_BYTES,
            endpoint=self.nccl,
        )

    def send(self, *names: str, epoch: int = 0) -> Client:
        self.client.open(list(names or self.engines), epoch)
        self.trainer.send_weights()
        return self.client

    def assert_loaded(self, *names: str) -> None:
        for name in names:
            loaded = self.engines[name].loaded
            assert loaded == {key: tensor.tolist() for key, tensor in TENSORS.items()}
            loaded.clear()


@pytest.fixture
def make() -> Iterator[Callable[..., Scene]]:
    made = list[Scene]()

    def scene(*values: Any, **faults: str) -> Scene:
        made.append(Scene(*values, **faults))
        return made[-1]

    yield scene
    for each in made:
        each.end()


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", produce)
    monkeypatch.setattr(nccl_transfer, "_RELEASE_S", 2.0)


def test_a_group_is_formed_once_for_updates_of_the_same_engines(make: Callable[..., Scene]) -> None:
    scene = make(a="", b="")
    for _ in range(3):
        assert scene.send().failures == {}
        assert scene.client.is_finished
        scene.assert_loaded("a", "b")
    assert scene.nccl.sizes == [3]
    assert scene.weights.num_gathered == 3


def test_an_engine_that_missed_the_probe_gets_its_second_try_in_a_group_of_its_size(
    make: Callable[..., Scene],
) -> None:
    """16 engines, one of which is asked again: before, that broadcast was one of 17 ranks."""
    names = [f"rollout-{index}" for index in range(16)]
    scene = make(**dict.fromkeys(names, ""))
    for asked in (names, ["rollout-3"], names):
        assert scene.send(*asked).failures == {}
        scene.assert_loaded(*asked)
    assert [len(names) for names in scene.client.asked] == [16, 1, 16]
    assert scene.nccl.sizes == [17, 2, 17], "exactly those who are asked, and rank 0"


def test_an_engine_that_restarted_or_joined_enters_by_a_new_group(
    make: Callable[..., Scene],
) -> None:
    scene = make(a="", b="")
    scene.send("a")
    scene.send("a", epoch=1)
    scene.send("a", "b", epoch=2)
    scene.assert_loaded("a", "b")
    assert scene.nccl.sizes == [2, 2, 3]


@pytest.mark.parametrize(
    "fault",
    [
        "dies before the group",
        "never comes",
        "dies before the update",
        "dies in the broadcast",
        "hangs",
    ],
)
def test_an_engine_that_is_lost_is_named_and_the_others_are_sound(
    make: Callable[..., Scene], fault: str
) -> None:
    scene = make(5.0, a="", b=fault, c="")  # of which a busy machine may take seconds
    start = time.monotonic()
    client = scene.send()
    assert time.monotonic() - start < 15
    assert list(client.failures) == ["b"]
    assert client.untried == ["a", "c"]
    assert not client.is_finished
    assert scene.weights.num_gathered == 1, "rank 0 gathers to the end with the other ranks"
    assert scene.send("a", "c", epoch=1).failures == {}
    scene.assert_loaded("a", "c")
    assert scene.nccl.sizes[-1] == 3


def test_an_engine_that_dies_between_two_updates_costs_one_group(
    make: Callable[..., Scene],
) -> None:
    scene = make(2.0, a="", b="")
    scene.send()
    scene.engines["b"].fault = "dies in the broadcast"
    client = scene.send()
    assert (list(client.failures), client.untried) == (["b"], ["a"])
    assert scene.send("a", epoch=1).failures == {}
    assert scene.nccl.sizes == [3, 2]


def test_an_engine_that_is_slow_to_go_on_breaks_no_group(make: Callable[..., Scene]) -> None:
    """What it has received, all have; the client drops it by itself."""
    scene = make(4.0, a="", b="")
    finish = scene.client.finish_weight_update

    def slow(weight_version: str | None = None) -> None:
        time.sleep(4.5)  # longer than the deadline, which a busy machine must meet
        finish(weight_version)

    scene.client.finish_weight_update = slow  # type: ignore[method-assign]
    assert scene.send().failures == {}
    assert scene.client.is_finished
    scene.assert_loaded("a", "b")
    assert scene.send().failures == {}
    assert scene.nccl.sizes == [3]


def test_a_broadcast_that_cannot_even_be_aborted_ends_the_run_within_the_deadline(
    make: Callable[..., Scene],
) -> None:
    scene = make(3.0, a="", b="hangs")
    join = scene.nccl.join

    def joined(*values: Any) -> Communicator:
        communicator = join(*values)
        communicator.is_deaf = True
        return communicator

    scene.engines["a"].nccl = scene.nccl
    scene.nccl.join = joined  # type: ignore[method-assign]
    scene.engines["a"]._watch = lambda released: None  # type: ignore[method-assign]
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="rank 0 still waits in NCCL"):
        scene.send()
    assert time.monotonic() - start < 15
    assert scene.weights.num_gathered == 1


def test_a_gather_that_fails_is_the_learners_own_error_and_frees_the_engines(
    make: Callable[..., Scene],
) -> None:
    class Broken(Weights):
        def full_parameters(self, bucket_bytes: int) -> Iterator[tuple[str, torch.Tensor]]:
            yield "a", TENSORS["a"]
            raise RuntimeError("Connection closed by peer")

    scene = make(a="")
    scene.weights = Broken()
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        scene.send()
    assert not scene.client.is_finished
    scene.weights = Weights()
    assert scene.send().failures == {}
    scene.assert_loaded("a")


def test_a_rank_that_does_not_send_only_gathers(make: Callable[..., Scene]) -> None:
    scene = make(a="")
    scene._trainer(is_sender=False).send_weights()
    assert (scene.weights.num_gathered, scene.client.asked) == (1, [])


class Learner:
    """The learner of a weight sync, with rank 0 in this process."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def logprobs(self, rows: Any) -> list[list[list[float]]]:
        return [[EXPECTED]]

    async def publish(self, version: Any, names: Sequence[str]) -> WeightSyncResult:
        client = await asyncio.to_thread(self._scene.send, *names)
        return WeightSyncResult(failures=client.failures, untried=client.untried, figures={})


async def test_a_probe_that_one_of_sixteen_misses_once_leaves_nobody_waiting(
    make: Callable[..., Scene],
) -> None:
    """Before: asked to take part [16, 1], while NCCL's group had 17 ranks."""
    names = [f"rollout-{index}" for index in range(16)]
    engines = Engines({name: [EXPECTED] for name in names})
    engines.answers["rollout-3"] = [[-9.0, -9.0], EXPECTED]
    scene = make(**dict.fromkeys(names, ""))
    sync = WeightSync(engines, Learner(scene), PROBE, 1e-5)  # type: ignore[arg-type]
    report = await asyncio.wait_for(sync.publish(VERSION), 60)
    assert (report.num_out_of_service, engines.in_service) == (0, set(names))
    assert [len(asked) for asked in scene.client.asked] == [16, 1]
    assert scene.nccl.sizes == [17, 2]


async def test_the_run_goes_on_without_an_engine_that_dies_in_the_broadcast(
    make: Callable[..., Scene],
) -> None:
    scene = make(2.0, a="", b="dies in the broadcast", c="")
    engines = Engines({name: [EXPECTED] for name in "abc"})
    engines.dead = {"b"}
    sync = WeightSync(engines, Learner(scene), PROBE, 1e-5)  # type: ignore[arg-type]
    report = await asyncio.wait_for(sync.publish(VERSION), 60)
    assert (report.num_out_of_service, engines.in_service) == (1, {"a", "c"})
    assert scene.nccl.sizes == [4, 3]


def test_an_id_of_nccls_passes_through_an_invitation(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.device_communicators import pynccl_wrapper

    made = pynccl_wrapper.ncclUniqueId()
    for index in range(pynccl_wrapper.NCCL_UNIQUE_ID_BYTES):
        made.internal[index] = index - 64

    class Library:
        def ncclGetUniqueId(self) -> Any:
            return made

    monkeypatch.setattr(pynccl_wrapper, "NCCLLibrary", Library)
    unique_id = base64.b64decode(base64.b64encode(nccl_transfer.PyNccl().unique_id()))
    assert list(unique_id) == [(index - 64) % 256 for index in range(128)]
