"""The tests lie as the product does: the test of ``cluster/plan/cost.py`` is
``tests/cluster/plan/test_cost.py``, or a line of ``tests/coverage_map.toml`` names it."""

import tomllib
from pathlib import Path

from tests.architecture.product import ROOT, product_modules

MAP = tomllib.loads((ROOT / "tests/coverage_map.toml").read_text())


def mirrored(module: Path) -> Path:
    """Where the test file of a module lies."""
    return Path("tests", module.parent, f"test_{module.stem}.py")


def has_mirrored_test(module: Path) -> bool:
    return (ROOT / mirrored(module)).is_file()


def test_every_module_has_a_test_file_of_its_name_or_a_line_in_the_map():
    untested = [
        f"{module}: neither {mirrored(module)} nor a line in tests/coverage_map.toml"
        for module in product_modules()
        if not has_mirrored_test(module) and module.as_posix() not in MAP
    ]
    assert not untested, "\n".join(untested)


def test_the_map_names_modules_that_exist_and_have_no_test_file_of_their_name():
    modules = {module.as_posix() for module in product_modules()}
    unneeded = [
        f"{name}: {'has ' + str(mirrored(Path(name))) if name in modules else 'no such module'}"
        for name in MAP
        if name not in modules or has_mirrored_test(Path(name))
    ]
    assert not unneeded, "\n".join(unneeded)


def test_the_map_names_test_files_that_exist():
    missing = [
        f"{name}: {test}"
        for name, tests in MAP.items()
        for test in tests or ["no test file"]
        if not (Path(test).name.startswith("test_") and (ROOT / test).is_file())
    ]
    assert not missing, "\n".join(missing)
