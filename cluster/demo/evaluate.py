"""Measures how well the demo's base model names events on looks it has never met.

    python -m cluster.demo.evaluate MODEL_DIR [--clips 300]     prints JSON

Clips come through H.264, as the demo's do, but are not the demo's own: their seeds differ, so that
looking at this number tunes nothing on the test clips. Triples are drawn evenly from all 216.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cluster.demo.batches import Preparer, through_codec
from cluster.demo.events import all_triples, events_in, stable_hash
from cluster.demo.render import render
from cluster.demo.scenes import POOLS, SPLITS, Scene, draw_scene
from cluster.demo.sight import see
from cluster.demo.texts import Exchange
from wire.strict_json import to_json

_QUESTION = "Name the three events of the video."
_CLIPS_AT_ONCE = 100
_ANSWER_TOKENS = 8


def naming_accuracy(model_dir: Path, clips: int) -> dict[str, dict[str, float]]:
    """Per split: the share of events named rightly, in their place, and of clips without error."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(model_dir)
    return {split: measure(model, processor, split, clips) for split in SPLITS}


def measure(model: Any, processor: Any, split: str, clips: int) -> dict[str, float]:
    """The two shares on fresh clips with the looks of one split."""
    preparer = Preparer(model, processor)
    rng = np.random.default_rng(stable_hash("evaluate", split))
    triples = all_triples()
    right = []
    for start in range(0, clips, _CLIPS_AT_ONCE):
        scenes = [
            draw_scene(POOLS[split], triples[int(rng.integers(216))], int(rng.integers(1 << 62)))
            for _ in range(min(_CLIPS_AT_ONCE, clips - start))
        ]
        answers = _name_events(model, preparer, scenes)
        for scene, answer in zip(scenes, answers, strict=True):
            named = events_in(processor.tokenizer.decode(answer)) or ("", "", "")
            right.append([a == b for a, b in zip(scene.events, named, strict=True)])
    shares = np.array(right)
    return {
        "events": round(shares.mean().item(), 4),
        "clips": round(shares.all(1).mean().item(), 4),
    }


@torch.no_grad()
def _name_events(model: Any, preparer: Preparer, scenes: list[Scene]) -> Tensor:
    """Greedy answers, as token ids; the sequences are short enough to do without a cache."""
    pixels = preparer.pixels([through_codec(render(scene)) for scene in scenes])
    tokens = see(model.model.visual, pixels, preparer.grid)
    prompt = preparer.prompt_ids(Exchange(_QUESTION, "", has_video=True))
    ids = torch.tensor([prompt] * len(scenes))
    for _ in range(_ANSWER_TOKENS):
        places = torch.from_numpy(preparer.positions(ids[0].tolist(), has_video=True))
        embedded = model.get_input_embeddings()(ids)
        is_video = (ids == model.config.video_token_id)[..., None]
        hidden = model.model.language_model(
            inputs_embeds=embedded.masked_scatter(is_video, tokens),
            position_ids=places[:, None].expand(-1, len(scenes), -1),
        ).last_hidden_state
        ids = torch.cat([ids, model.lm_head(hidden[:, -1]).argmax(-1, keepdim=True)], 1)
    return ids[:, len(prompt) :]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--clips", type=int, default=300)
    arguments = parser.parse_args()
    result = naming_accuracy(arguments.model_dir, arguments.clips)
    sys.stdout.write(to_json(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
