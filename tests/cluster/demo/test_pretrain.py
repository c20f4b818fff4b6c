import json
from pathlib import Path

import pytest

from cluster.demo.pretrain import Schedule, pretrain
from cluster.demo.tiny_model import BASE_DIR

SHORT = Schedule(sight_steps=2, language_steps=2, clips=4, sentences=2, codec_share=0.5)


@pytest.mark.slow
def test_a_model_trained_anew_has_the_shape_of_the_shipped_one(tmp_path: Path):
    from safetensors import safe_open

    made = pretrain(tmp_path / "base", SHORT)
    shapes = []
    for folder in (made, BASE_DIR):
        with safe_open(folder / "model.safetensors", "pt") as file:
            shapes.append({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    assert shapes[0] == shapes[1]
    configs = [json.loads((f / "config.json").read_text()) for f in (made, BASE_DIR)]
    assert configs[0]["vision_config"] == configs[1]["vision_config"]
    assert (made / "tokenizer.json").read_bytes() == (BASE_DIR / "tokenizer.json").read_bytes()
