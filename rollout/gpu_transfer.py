"""Engine's side of weight transfers between GPUs: vLLM's own NCCL and IPC receivers, made to
survive members that are lost.

    invitation -> meet -> NCCL group -> receive, watched -> loaded, or given up

A receiver of NCCL's waits for all others without a limit. Here a watch beside it aborts the group
once rank 0 has given it up or is gone, and ends this process where even that does not help: an
engine that died is replaced or left out, one that hangs holds up everybody. An update that was left
half loaded leaves nothing in the next one.

vLLM's parts need GPUs and were not run on a machine without one.
"""

import base64
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo
from vllm.distributed.weight_transfer.ipc_engine import (
    IPCWeightTransferEngine,
    IPCWeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from wire.cuda_handle import decode
from wire.engine_group import GIVEN_UP, Meeting, join_store
from wire.errors import WeightUpdateError

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5
_GRACE_S = 20.0
"""A call that does not end within this time after its group was aborted never will."""


@dataclass(kw_only=True)
class GroupInvitation(WeightTransferInitInfo):
    """Invitation to a transfer group: where its members meet, and NCCL's id of it."""

    address: str
    port: int
    generation: int
    rank_offset: int
    world_size: int
    unique_id: str
    bucket_bytes: int
    timeout_s: float


@dataclass
class GroupUpdate(NCCLWeightTransferUpdateInfo):
    """What is broadcast, and which transfer of the group it is."""

    transfer: int = 0


class NcclGroupTransfer(NCCLWeightTransferEngine):
    """Receives the weights of groups that are formed anew whenever their members change."""

    init_info_cls = GroupInvitation
    update_info_cls = GroupUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._meeting: Meeting | None = None
        self._rank, self._timeout_s = 0, 0.0

    def init_transfer_engine(self, init_info: GroupInvitation) -> None:
        """Leave the last group, and form the one to which the learner invites. Raises
        WeightUpdateError."""
        self.shutdown()
        parallel = self.parallel_config
        self._rank = init_info.rank_offset + (
            parallel.data_parallel_index * parallel.world_size + parallel.rank
        )
        self._timeout_s = init_info.timeout_s
        self.packed, self.packed_buffer_size_bytes = True, init_info.bucket_bytes
        store = join_store(init_info.address, init_info.port, init_info.timeout_s)
        self._meeting = Meeting(store, init_info.generation)
        self._meeting.come(self._rank)
        self._meeting.wait_for_begin(init_info.timeout_s)
        with self._watched("form the transfer group"):
            self.model_update_group = uid_init_process_group(
                base64.b64decode(init_info.unique_id),
                self._rank,
                init_info.world_size,
                self.device.index or 0,
            )

    def start_weight_update(self) -> None:
        """Begin, without what an update that was left open had loaded."""
        forget_halves(self.model)
        super().start_weight_update()

    def receive_weights(self, update_info: GroupUpdate) -> None:
        """Receive a broadcast. Raises WeightUpdateError if the group was given up meanwhile: what
        came by then is of no use."""
        if self._meeting is None or self.model_update_group is None:
            raise WeightUpdateError("the engine is in no transfer group")
        with self._watched("receive weights"):
            self._meeting.enter(self._rank, update_info.transfer)
            super().receive_weights(update_info)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        assert self._meeting is not None, "init_transfer_engine() comes first"
        meeting = self._meeting
        with watched(lambda: meeting.is_given_up, self.shutdown, self._timeout_s, what):
            yield


class IpcBytesTransfer(IPCWeightTransferEngine):
    """Reads the memory of the learner's rank on the same GPU; handles come as plain values."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.packed = True

    def parse_update_info(self, update_dict: dict[str, Any]) -> IPCWeightTransferUpdateInfo:
        """The update with torch's handles."""
        handles = {gpu: decode(values) for gpu, values in update_dict["ipc_handles"].items()}
        return super().parse_update_info({**update_dict, "ipc_handles": handles})

    def start_weight_update(self) -> None:
        """Begin, without what an update that was left open had loaded."""
        forget_halves(self.model)
        super().start_weight_update()

    def receive_weights(self, update_info: IPCWeightTransferUpdateInfo) -> None:
        """Load a bucket from the rank's buffer. Raises WeightUpdateError if no rank shares this
        engine's GPU."""
        gpu = str(torch.cuda.get_device_properties(self.device.index).uuid)
        handles = update_info.ipc_handles
        assert isinstance(handles, dict), "a bucket has one buffer"
        if gpu not in handles:
            raise WeightUpdateError(
                f"no learner rank shares this engine's GPU {gpu}, theirs are {sorted(handles)}: "
                "transfer.kind = 'ipc' needs engine i and rank i on one GPU (docs/cluster.md)"
            )
        super().receive_weights(update_info)


def forget_halves(model: torch.nn.Module) -> None:
    """Forget weights that an unfinished update left waiting for the rest of their layers: with the
    next update's they would make layers of two versions."""
    for layer in model.modules():
        info = get_layerwise_info(layer)
        info.loaded_weights.clear()
        info.load_numel = 0


@contextmanager
def watched(
    is_given_up: Callable[[], bool],
    release: Callable[[], None],
    timeout_s: float,
    what: str,
    *,
    end: Callable[[int], Any] = os._exit,
) -> Iterator[None]:
    """Run a block that may wait for others in NCCL. Once they have given up, or after
    ``timeout_s``, ``release`` is to free it; if it does not, the process ends. Raises
    WeightUpdateError if it was released."""
    ended, released = threading.Event(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + timeout_s
        while not ended.wait(_LOOK_EVERY_S):
            if is_given_up() or time.monotonic() > deadline:
                released.set()
                release()
                if not ended.wait(_GRACE_S):
                    log.error("an engine's process cannot %s and ends: its group is gone", what)
                    end(1)
                return

    threading.Thread(target=watch, name="watch-transfer", daemon=True).start()
    try:
        yield
    except Exception as error:
        if released.is_set():
            raise WeightUpdateError(f"{GIVEN_UP} before it could {what}") from error
        raise
    finally:
        ended.set()
    if released.is_set():
        raise WeightUpdateError(f"{GIVEN_UP} before it could {what}")
