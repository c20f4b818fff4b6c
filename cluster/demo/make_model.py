"""The demo's base model, written to a folder: the shipped one, or one pretrained anew."""

import shutil
from pathlib import Path

from cluster.demo.tiny_model import BASE_DIR, logger


def make_demo_model(out_dir: Path | str, retrain: bool = False) -> Path:
    """Write the demo's base model to a directory: the shipped one, or one trained from scratch."""
    out = Path(out_dir)
    if retrain:
        from cluster.demo.pretrain import pretrain

        return pretrain(out)
    if not (BASE_DIR / "model.safetensors").exists():
        raise ValueError(f"no trained model in {BASE_DIR}; make one with --retrain")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(BASE_DIR.iterdir()):
        shutil.copyfile(file, out / file.name)
    logger.info("copied the demo's base model to %s", out)
    return out
