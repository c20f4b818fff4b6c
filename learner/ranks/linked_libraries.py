"""Gives the linker a path to torch's libraries that holds no space.

torch compiles DeepSpeed's operators with ``-L`` and the path of its libraries, without quotes: in a
checkout whose path has a space (".../my project/.venv") the linker finds none of them, and no rank
could start. A link without a space stands in for the path.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def link_libraries(folders: Iterable[Path]) -> None:
    """Let torch name its libraries by a link in the first of ``folders`` whose path has no space;
    the system's folder for temporary files comes last. Nothing is done where none is needed."""
    from torch.utils import cpp_extension

    libraries = Path(cpp_extension.TORCH_LIB_PATH)
    if not _has_space(libraries):
        return
    for folder in (*folders, Path(tempfile.gettempdir()), Path("/tmp")):
        if not _has_space(folder):
            cpp_extension.TORCH_LIB_PATH = str(_link(folder, libraries))
            return


def _link(folder: Path, libraries: Path) -> Path:
    """A link in ``folder`` to the libraries; made by rename, as several ranks start at a time."""
    name = hashlib.sha256(str(libraries).encode()).hexdigest()[:16]
    link, made = folder / f"torch-lib-{name}", folder / f"torch-lib-{name}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    made.symlink_to(libraries)
    made.replace(link)
    return link


def _has_space(path: Path) -> bool:
    return len(str(path).split()) > 1
