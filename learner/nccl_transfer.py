"""NCCL weight transfer: a group of rank 0 and the engines that are to get the weights.

    membership differs -> leave the group, form one of exactly these engines -> broadcast

Forming and broadcasting run in threads that may be left behind: rank 0 itself goes on gathering
with the other ranks, and learns within a deadline who did not take part. The data path is vLLM's
own trainer; it needs GPUs and was not run on a machine without one.
"""

import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)

from learner.ranks.overlapped_calls import Abandonable
from wire.engine_group import Meeting, Membership, open_store
from wire.errors import DeadlineExceeded, WeightUpdateError

_LOOK_EVERY_S = 0.02
_RELEASE_S = 15.0
"""Sound members of a group that was given up are back by then."""
_NUM_BUFFERS = 2
_PATIENCE = 0.9
"""Share of the engines' own deadline after which rank 0 gives a group up: whoever fails then, fails
because of it."""


@runtime_checkable
class GroupClient(VLLMWeightSyncClient, Protocol):
    """Client of the engines of one group, as cluster/actors/engine_client.py's is."""

    update_timeout_s: float
    """A transfer that takes longer has failed."""

    @property
    def membership(self) -> Membership:
        """The engines of the next update."""

    def find_unsound(self, within_s: float) -> dict[str, str]:
        """Engines whose last call failed by itself or is still under way then, with reasons. A
        call that failed because the group was given up is no fault of its engine."""

    def break_up(self, culprits: dict[str, str], why: str) -> None:
        """Note that nobody got the weights: ``culprits`` for their own reasons, the others because
        of them."""


@runtime_checkable
class Endpoint(Protocol):
    """NCCL as rank 0 uses it."""

    def unique_id(self) -> bytes:
        """A new group's id."""

    def join(self, unique_id: bytes, world_size: int) -> Any:
        """Communicator of rank 0, once all others have joined; vLLM's PyNcclCommunicator."""


class PyNccl:
    """NCCL through vLLM's wrapper, on the current device."""

    def unique_id(self) -> bytes:
        """A new group's id."""
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

        return bytes(NCCLLibrary().ncclGetUniqueId().internal)

    def join(self, unique_id: bytes, world_size: int) -> Any:
        """Communicator of rank 0."""
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        device = torch.accelerator.current_device_index()
        return uid_init_process_group(unique_id, 0, world_size, device)


@dataclass
class NcclGroupTrainerInit(TrainerInitInfo):
    """Settings of the trainer's side."""

    backend: ClassVar[str] = "nccl_group"
    address: str = ""
    bucket_bytes: int = 1 << 28


@dataclass(frozen=True, slots=True)
class _Group:
    membership: Membership
    meeting: Meeting
    communicator: Any


class NcclGroupTrainer(TrainerWeightTransferEngine[NcclGroupTrainerInit]):
    """Sends through an NCCL group that is formed anew whenever its members change."""

    init_info_cls = NcclGroupTrainerInit

    def __init__(
        self,
        *,
        client: GroupClient,
        source: WeightSource,
        is_sender: bool,
        address: str,
        bucket_bytes: int,
        endpoint: Endpoint,
    ) -> None:
        super().__init__(client=client, source=source, is_sender=is_sender)
        self._engines, self._weights = client, source
        self._address, self._bucket_bytes, self._endpoint = address, bucket_bytes, endpoint
        self._store = open_store() if is_sender else None
        self._generation, self._transfers = 0, 0
        self._group: _Group | None = None

    @classmethod
    def trainer_init(
        cls,
        init_info: NcclGroupTrainerInit,
        *,
        client: Any,
        source: WeightSource | None = None,
    ) -> "NcclGroupTrainer":
        """Get ready to send; the group is formed when it is known who is to get the weights."""
        assert source is not None, "weights come from a source"
        return cls(
            client=client,
            source=source,
            is_sender=init_info.is_sender,
            address=init_info.address,
            bucket_bytes=init_info.bucket_bytes,
            endpoint=PyNccl(),
        )

    def send_weights(self) -> None:
        """Send one whole update to the client's engines, or note there who kept it from them.

        Raises DeadlineExceeded if rank 0's own part could not be ended.
        """
        tensors = iter(self._weights)
        try:
            if self.is_sender:
                self._send(tensors)
        finally:  # the ranks gather to the end together, whatever became of the sending
            for _ in tensors:
                pass

    def _send(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        members = self._engines.membership
        if not members.members:
            return
        try:
            if self._group is None or self._group.membership != members:
                self._leave()
                self._group = self._form(members)
            self._broadcast(self._group, tensors)
        except _Broken as broken:
            self._leave()
            self._engines.break_up(broken.culprits, str(broken))

    @property
    def _patience_s(self) -> float:
        return _PATIENCE * self._engines.update_timeout_s

    def shutdown(self) -> None:
        """Leave the group."""
        self._leave()

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.meeting.give_up()
            group.communicator.destroy()  # aborts, in a thread of its own

    def _form(self, members: Membership) -> _Group:
        """A group of these engines. Raises _Broken, which names those that did not come."""
        assert self._store is not None, "only rank 0 forms groups"
        self._generation, self._transfers = self._generation + 1, 0
        meeting = Meeting(self._store, self._generation)
        unique_id, timeout_s = self._endpoint.unique_id(), self._patience_s
        invitation = {
            "address": self._address,
            "port": self._store.port,
            "generation": self._generation,
            "rank_offset": 1,
            "world_size": members.world_size,
            "unique_id": base64.b64encode(unique_id).decode(),
            "bucket_bytes": self._bucket_bytes,
            "timeout_s": self._engines.update_timeout_s,
        }
        deadline = time.monotonic() + timeout_s
        invited = Abandonable(self._engines.init_weight_transfer_engine, invitation)

        def goes_on() -> bool:
            return not invited.has_failed and time.monotonic() < deadline

        while late := meeting.absent(range(1, members.world_size)):
            if not goes_on():
                why = f"did not come to the transfer group within {timeout_s:.0f} s"
                raise self._broken(why, meeting, members.owners(late))
            time.sleep(_LOOK_EVERY_S)
        meeting.begin()  # from here on NCCL waits for all of them, without a limit
        joined = Abandonable(self._endpoint.join, unique_id, members.world_size)
        while not (joined.wait(_LOOK_EVERY_S) and invited.wait(0.0)):
            if joined.has_failed or not goes_on():
                break
        if joined.succeeded and invited.succeeded:
            return _Group(members, meeting, joined.result())
        why = f"NCCL did not form the group within {timeout_s:.0f} s ({joined.error})"
        raise self._broken(why, meeting, [])

    def _broadcast(self, group: _Group, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Feed vLLM's trainer, which runs beside this thread. Raises _Broken, DeadlineExceeded."""
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

        self._transfers += 1
        handed = _HandedOver(self._weights.metadata())
        watched = _WatchedClient(self._engines, self._transfers)
        trainer = NCCLTrainerWeightTransferEngine(
            client=watched,
            source=handed,
            packed=True,
            packed_buffer_size_bytes=self._bucket_bytes,
            packed_num_buffers=_NUM_BUFFERS,
        )
        trainer.model_update_group = group.communicator
        timeout_s = self._patience_s
        deadline = time.monotonic() + timeout_s
        sending = Abandonable(trainer.send_weights)

        def goes_on() -> bool:
            failed = sending.has_failed or watched.failed.is_set()
            return not failed and (watched.has_arrived or time.monotonic() < deadline)

        try:
            if all(handed.put(item, goes_on) for item in tensors):
                handed.close()
                while not sending.wait(_LOOK_EVERY_S) and goes_on():
                    pass
        finally:
            if not sending.succeeded:
                self._end(group, handed, sending)
        if sending.succeeded:
            return
        ranks = range(1, group.membership.world_size)
        outside = group.meeting.outside(ranks, self._transfers) if watched.has_begun else []
        why = f"did not take part in the broadcast within {timeout_s:.0f} s"
        raise self._broken(why, group.meeting, group.membership.owners(outside))

    def _end(self, group: _Group, handed: "_HandedOver", sending: Abandonable) -> None:
        """End a broadcast in which somebody is missing, for all who wait in it."""
        handed.give_up()
        self._leave()
        if not sending.wait(_RELEASE_S):
            raise DeadlineExceeded(
                f"the learner's rank 0 still waits in NCCL {_RELEASE_S:.0f} s after its group was "
                f"aborted; engines without an answer: {self._engines.find_unsound(0.0)}; "
                "--resume goes on without loss"
            )

    def _broken(self, why: str, meeting: Meeting, outside: Sequence[str]) -> "_Broken":
        """Who broke a group: the members that do not come back sound once it is given up."""
        meeting.give_up()
        unsound = self._engines.find_unsound(_RELEASE_S)
        return _Broken(
            why, {name: why if name in outside else text for name, text in unsound.items()}
        )


class _Broken(Exception):
    """A group that could not be formed, or broke during a transfer."""

    def __init__(self, why: str, culprits: dict[str, str]) -> None:
        super().__init__(why)
        self.culprits = culprits


class _WatchedClient:
    """Client of one transfer; says at once that a call failed, where vLLM's trainer only asks after
    the broadcast."""

    def __init__(self, client: GroupClient, transfer: int) -> None:
        self._client, self._transfer = client, transfer
        self.failed = threading.Event()
        self.has_begun = self.has_arrived = False

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        raise AssertionError("the group is formed")

    def start_weight_update(self) -> None:
        self._client.start_weight_update()
        self.has_begun = True

    def update_weights(self, update_info: Any) -> None:
        try:
            self._client.update_weights({**update_info, "transfer": self._transfer})
        except BaseException:
            self.failed.set()
            raise

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.has_arrived = True  # from here on each engine is on its own
        self._client.finish_weight_update(weight_version)


class _HandedOver(WeightSource):
    """Weights that one thread gathers and another one sends, one at a time."""

    def __init__(self, metadata: list[ParamMeta]) -> None:
        self._metadata = metadata
        self._changed = threading.Condition()
        self._item: tuple[str, torch.Tensor, Any] | None = None
        self._closed = self._given_up = False

    def metadata(self) -> list[ParamMeta]:
        return self._metadata

    def put(self, item: tuple[str, torch.Tensor], goes_on: Callable[[], bool]) -> bool:
        """Hand over a weight, once the last one was taken. False: nobody takes it."""
        with self._changed:
            while self._item is not None:
                if not goes_on():
                    return False
                self._changed.wait(_LOOK_EVERY_S)
            self._item = (*item, _gathered(item[1]))
            self._changed.notify_all()
        return goes_on()

    def close(self) -> None:
        """Note that the last weight was handed over."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Let the other thread end with an error."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._item or self._closed or self._given_up)
                if self._given_up:
                    raise WeightUpdateError("the learner gave this transfer up")
                if self._item is None:
                    return
                (name, tensor, gathered), self._item = self._item, None
                self._changed.notify_all()
            if gathered is not None:  # the sending thread has streams of its own
                stream = torch.cuda.current_stream()
                stream.wait_event(gathered)
                tensor.record_stream(stream)
            yield name, tensor


def _gathered(tensor: torch.Tensor) -> Any:
    """Event after which a tensor holds its values; None on a CPU."""
    return torch.cuda.current_stream().record_event() if tensor.is_cuda else None
