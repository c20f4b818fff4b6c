"""Let a CUDA build of torchvision import beside a CPU build of torch.

    import torchvision -> can its compiled part load? -> no: declare its two operators -> go on

PyPI's torchvision is compiled against CUDA. Beside a CPU torch its compiled part does not load,
the operator schemas ``torchvision::nms`` and ``qnms`` stay undefined, and ``import torchvision``
raises. transformers and vLLM only need its transforms. ``make setup`` copies this module into the
environment's site-packages with a ``.pth`` line that calls :func:`install` in every Python process,
because vLLM also inspects models in a process of its own. It costs nothing until torchvision is
imported, and declares nothing where torch has CUDA or ROCm or the compiled part is whole: declared
twice, the schemas would make torchvision's own registration fail.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder

# Every Python process of the environment imports this file: what it imports itself stays small.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.abc import Loader
    from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep: list[object] = []  # a torch Library forgets its schemas when it is collected


def is_needed(gpu_torch: bool, declared: bool, compiled_part_loads: Callable[[], bool]) -> bool:
    """Whether the schemas must be declared here. Asks the last question only if it has to."""
    return not gpu_torch and not declared and not compiled_part_loads()


def declare_missing_operators(folders: Sequence[str]) -> bool:
    """Declare torchvision's schemas if nothing else will. Returns whether it did."""
    import torch

    gpu_torch = bool(torch.version.cuda or torch.version.hip)
    declared = hasattr(torch.ops.torchvision, "nms")
    if not is_needed(gpu_torch, declared, lambda: _compiled_part_loads(folders)):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    _keep.append(library)
    return True


def _compiled_part_loads(folders: Sequence[str]) -> bool:
    """Load it as torchvision is about to; a library that is already loaded is not loaded again."""
    import importlib.machinery as machinery
    from pathlib import Path

    import torch

    # torchvision's own loader asks the same finder, so it sees the same file.
    details = (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES)
    for folder in folders:
        spec = machinery.FileFinder(str(Path(folder)), details).find_spec("_C")
        if spec is not None and spec.origin is not None:
            try:
                torch.ops.load_library(spec.origin)
            except OSError:
                return False
            return True
    return False


class _DeclareFirst:
    """torchvision's own loader, preceded by the declaration."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self._loader
        declare_missing_operators(spec.submodule_search_locations or ())
        self._loader.exec_module(module)


class _TorchvisionFinder:
    """Finds torchvision as Python would. Finding it is free: only importing it loads torch."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _DeclareFirst(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Put the finder in front; called once per process by the ``.pth`` line."""
    if _TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TorchvisionFinder)
