"""Extension of vLLM's own processes (``worker_extension_cls``), imported before the model is built.

Five things happen at import, where a later call would come too late:

* on CPU, vLLM packs linear weights at load and empties the originals, so that later updates are
  silently lost; a plain ``linear`` takes its place.
* our backends are registered with vLLM's weight-transfer factory: ``object_store``, for machines
  without NCCL, and those of ``gpu_transfer``.
* on CPU, a seeded request whose prompt is computed in parts crashes vLLM 0.32 ("CPU Generator does
  not use offset"); its generator learns to take back a draw.
* its processes offer their stacks, for the run's watchdog.
* a watchdog ends the engine's processes when the actor that owns them is gone, so that a killed
  actor leaves none.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import vllm.model_executor.layers.utils as layer_utils
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from rollout.engine_environment import OWNER
from rollout.engine_watchdog import end_with_owner
from wire.errors import WeightUpdateError
from wire.shared_memory import SharedReader
from wire.stack_dump import offer_stacks
from wire.weight_digest import DigestRecorder, tensor_digest
from wire.weights import unpack

BACKEND = "object_store"


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Empty settings of the backend: each bucket describes itself."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """One bucket of a weight update: its header, and where in shared memory its bytes are."""

    header: dict[str, Any]
    path: str
    num_buckets: int


class ObjectStoreTransfer(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Loads buckets of weights from shared memory; an update that is not whole fails at its end."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: set[int] = set()
        self._expected = 0
        self._loaded: set[str] = set()
        self._memory = SharedReader()

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """Opens nothing: there is no rendezvous."""

    def start_weight_update(self) -> None:
        """Reset the state of the last update."""
        self._seen, self._expected, self._loaded = set(), 0, set()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket, in place. The base class synchronizes an accelerator; a CPU has none."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        """Check a bucket's bytes and load its tensors."""
        try:
            data = self._memory.view(update_info.path)
        except OSError as error:
            raise WeightUpdateError(
                f"the learner's memory {update_info.path} cannot be read ({error.strerror}): its "
                "process ended, or runs as another user or in another container"
            ) from error
        tensors = unpack(update_info.header, data)
        with _one_thread():
            self._loaded |= self.model.load_weights(tensors) or set()
        self._seen.add(update_info.header["index"])
        self._expected = update_info.num_buckets

    def finish_weight_update(self) -> None:
        """Raise WeightUpdateError unless every bucket came and every parameter was loaded."""
        missing = set(range(self._expected)) - self._seen
        if missing or not self._expected:
            raise WeightUpdateError(
                f"weight update ended after {len(self._seen)} of {self._expected} buckets, "
                f"missing {sorted(missing)}"
            )
        # as load_weights calls them where vLLM has put LoRA around a layer
        names = {name.replace(".base_layer.", ".") for name, _ in self.model.named_parameters()}
        if untouched := sorted(names - self._loaded):
            raise WeightUpdateError(
                f"weight update left {len(untouched)} parameters as they were, "
                f"such as {untouched[0]}"
            )
        self._memory.forget_unseen()

    def shutdown(self) -> None:
        """Unmap the learner's memory."""
        self._memory.forget()


class Extension:
    """Mixin of vLLM's worker; importing this module applied its patches."""

    rank: int
    model_runner: Any
    weight_transfer_engine: Any
    _weight_update_active: bool
    start_weight_update: Callable[[], None]
    _recorder: DigestRecorder | None = None

    def begin_weight_update(self, record_digests: bool) -> None:
        """Open an update. One that was left open is closed, keeping what it loaded; vLLM has no
        call for this. ``record_digests``: record what the model loads, for
        :meth:`weight_digests`."""
        if record_digests:
            self._record_digests()
        if self._weight_update_active:
            self._weight_update_active = False
            self.weight_transfer_engine.reset_weight_update_target()
        self.start_weight_update()

    def _record_digests(self) -> None:
        """Record what the model is given to load, by whatever backend, from now on."""
        model, first = self.model_runner.get_model(), self._recorder is None
        self._recorder = DigestRecorder()
        if first:
            load = model.load_weights
            model.load_weights = lambda tensors: load(self._recorder.of(tensors))

    def weight_digests(self) -> tuple[dict[str, int], int]:
        """Digest of each tensor that the last update gave the model, and one of all parameters
        that the model has now, in vLLM's names and shapes."""
        assert self._recorder is not None, "no update with digests"
        resident = DigestRecorder()
        for _ in resident.of(self.model_runner.get_model().named_parameters()):
            pass
        words = torch.tensor([resident.digests[name] for name in sorted(resident.digests)])
        return self._recorder.digests, int(tensor_digest(words))

    def clip_embeddings(self, fingerprint: str) -> tuple[str, list[int], bytes] | None:
        """Dtype, shape and bytes of what the vision tower made of a clip; None if vLLM has dropped
        it, or another worker answers."""
        made = self.model_runner.encoder_cache.get(fingerprint) if self.rank == 0 else None
        if made is None:
            return None
        flat = made.detach().cpu().contiguous().flatten().view(torch.uint8)
        dtype = str(made.dtype).removeprefix("torch.")
        return dtype, list(made.shape), flat.numpy().tobytes()

    def left_out(self, lora_id: int) -> list[str]:
        """Layers of a loaded adapter that vLLM does not apply: it says so in its log alone."""
        manager = self.model_runner.lora_manager._adapter_manager
        adapter = manager.get_adapter(lora_id)
        return sorted(set(adapter.loras) - set(manager.modules))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the block in one thread: a copy in memory is no faster by several, and these wait for
    each other where other engines or a learner use the same cores. (On a CPU, vLLM makes
    ``torch.set_num_threads`` do nothing.)"""
    count = torch.get_num_threads()
    torch._C.set_num_threads(1)
    try:
        yield
    finally:
        torch._C.set_num_threads(count)


def _plain_linear(layer: torch.nn.Module, remove_weight: bool) -> None:
    """Plain linear layer in place of vLLM's CPU packing: the weight stays where updates write
    it."""
    layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]


def _replace_everywhere(name: str, replacement: Callable[..., None]) -> None:
    """Replace a function, also in vLLM modules that imported it by name."""
    setattr(layer_utils, name, replacement)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("vllm") and hasattr(module, name):
            setattr(module, name, replacement)


def _encoder_outputs_on_device() -> None:
    """Move to the device what a model made of ``video_embeds``: they stay on the CPU until then
    (rollout/vllm_calls/request.py), and the text model takes them from the GPU."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    cache = GPUModelRunner._cache_encoder_output

    def cache_on_device(self: Any, mm_hash: str, output: Any, *rest: Any, **more: Any) -> None:
        cache(self, mm_hash, output.to(self.device), *rest, **more)

    GPUModelRunner._cache_encoder_output = cache_on_device


class _Rewindable(torch.Generator):
    """Random generator that can take back its last draw, as vLLM asks where a prompt was computed
    in part only.

    vLLM does it by moving the generator's offset back, which a CPU one lacks: here the state before
    the draw is kept.
    """

    def mark(self) -> None:
        """Remember the present state."""
        self._before = self.get_state()

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        return self.set_state(self._before)


def _rewindable_requests() -> None:
    """Give every seeded request a rewindable generator, marked before a draw that will be taken
    back."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    request_init, sample = CachedRequestState.__post_init__, GPUModelRunner._sample

    def post_init(self: CachedRequestState) -> None:
        request_init(self)
        if self.generator is not None:
            seed = self.generator.initial_seed()
            self.generator = _Rewindable()
            self.generator.manual_seed(seed)

    def marking_sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        for index in np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs]):
            generator = self.input_batch.generators.get(int(index))
            if generator is not None:
                generator.mark()
        return sample(self, *args, **kwargs)

    CachedRequestState.__post_init__ = post_init
    GPUModelRunner._sample = marking_sample


WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreTransfer)
for _name, _class in {"nccl_group": "NcclGroupTransfer", "ipc_bytes": "IpcBytesTransfer"}.items():
    WeightTransferEngineFactory.register_engine(_name, "rollout.gpu_transfer", _class)
_owner = int(os.environ.get(OWNER, "0"))
if _owner != os.getpid():  # in a process of vLLM's; the owner only needs the registration
    if current_platform.is_cpu():
        _replace_everywhere("dispatch_cpu_unquantized_gemm", _plain_linear)
        _rewindable_requests()
    _encoder_outputs_on_device()
    offer_stacks()
    if _owner and sys.platform == "linux":
        end_with_owner(_owner)
