"""How large the tensors are that code makes. (No test file.)"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class largest_tensor(TorchDispatchMode):
    """Within it: elements of the largest tensor that any operation gave, views included."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if torch.is_tensor(leaf)]
        self.numel = max([self.numel, *sizes])
        return made
