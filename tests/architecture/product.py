"""The modules of the product, for the guards of this folder. (No test file.)"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("wire", "video", "rollout", "reward", "learner", "calibrate", "cluster")


def product_files() -> list[Path]:
    """Every Python file of the product, ``__init__.py`` included, relative to the root."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in files)


def product_modules() -> list[Path]:
    """Those of them that hold code."""
    return [path for path in product_files() if path.name != "__init__.py"]
