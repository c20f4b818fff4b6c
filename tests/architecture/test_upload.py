"""What `ray job submit --working-dir .` would upload, by Ray's own packaging."""

import logging
import shutil
import zipfile
from pathlib import Path

from tests.architecture.product import ROOT


def test_a_job_uploads_neither_history_nor_environment_nor_data(tmp_path: Path):
    from ray._private.runtime_env.packaging import create_package

    folder, package = tmp_path / "checkout", tmp_path / "package.zip"
    left_out = [".git/objects/a", ".venv/lib/a.py", "runs/a/run.json", "build/demo/a", "clip.mp4"]
    taken = ["cluster/cli.py", "recipes/demo.toml", "tests/data/a.json"]
    for name in (*left_out, *taken, "models/a.safetensors", "data/m.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a")
    shutil.copy(ROOT / ".rayignore", folder)
    create_package(str(folder), package, include_gitignore=False, logger=logging.getLogger("ray"))
    with zipfile.ZipFile(package) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert names == {*taken, ".rayignore"}
