"""Weights of a classifier whose verdict is LoRA, from the real learner to plain transformers."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from calibrate.classifier import load_classifier
from learner.shared_prefix.rows import Row
from rollout.config import RolloutConfig
from rollout.lora import Adapter, AdapterSlots
from rollout.vllm_engine import VllmEngine
from tests.architecture.product import ROOT
from tests.calibrate.classifiers import make_description, make_provenance, publish
from tests.end_to_end.lora_verdict import rows
from tests.learner.builders import VIDEO_TOKEN, make_clip
from wire.types import PolicyVersion

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]

EXACT = 1e-4  # float32: another order of additions, by the learner, peft and the merged weights


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A classifier elsewhere, whose run is gone; what its learner said; and the merged verdict."""
    from transformers import AutoModelForImageTextToText as Auto

    folder = tmp_path_factory.mktemp("verdict")
    run = folder / "run"
    run.mkdir()
    module = "tests.end_to_end.lora_verdict"
    subprocess.run([sys.executable, "-m", module, str(run)], cwd=ROOT, check=True, timeout=500)
    out = publish(
        folder,
        description=make_description(),
        provenance=make_provenance(),
        policy_dir=run / "stages/grpo/model",
        verdict_dir=None,
        adapter_dir=run / "stages/calibrated/adapter",
    )
    learner = json.loads((run / "learner.json").read_text())
    merged = logprobs(Auto.from_pretrained(run / "stages/calibrated/model"))
    shutil.move(out.path, folder / "elsewhere")
    shutil.rmtree(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield SimpleNamespace(path=folder / "elsewhere", learner=learner, merged=merged)


def logprobs(model: Any) -> list[list[float]]:
    """Of each row's response."""
    return [response_logprobs(model, row, row.responses[0].token_ids) for row in rows()]


def code_logprobs(model: Any, row: Row, codes: Sequence[Sequence[int]]) -> list[float]:
    """Of each code after the prompt."""
    return [sum(response_logprobs(model, row, code)) for code in codes]


@torch.no_grad()
def response_logprobs(model: Any, row: Row, response: Sequence[int]) -> list[float]:
    """Of the tokens after the prompt, by plain transformers: its own positions and vision tower."""
    model.eval()
    clip = make_clip(int(row.prompt.clip_key))
    ids = torch.tensor([[*row.prompt.token_ids, *response]])
    logits = model(
        input_ids=ids,
        mm_token_type_ids=2 * (ids == VIDEO_TOKEN).int(),
        pixel_values_videos=torch.tensor(clip.pixel_values),
        video_grid_thw=torch.tensor([clip.grid_thw]),
        second_per_grid_ts=torch.tensor([clip.seconds_per_grid]),
    ).logits[0, -len(response) - 1 : -1]
    return list(logits.log_softmax(-1)[range(len(response)), list(response)].tolist())


def gap(one: list[list[float]], other: list[list[float]]) -> float:
    return max(np.abs(np.subtract(a, b)).max() for a, b in zip(one, other, strict=True))


def of_learner(values: list[list[list[float]]]) -> list[list[float]]:
    return [row[0] for row in values]


def test_plain_transformers_opens_the_policy_and_peft_the_verdict_on_it(moved: SimpleNamespace):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText as Auto

    classifier = load_classifier(moved.path)
    policy = Auto.from_pretrained(classifier.policy_dir)
    assert gap(logprobs(policy), of_learner(moved.learner["before"])) < EXACT
    verdict = PeftModel.from_pretrained(policy, str(classifier.adapter_dir))
    opened = logprobs(verdict)
    assert gap(opened, of_learner(moved.learner["verdict"])) < EXACT
    assert gap(opened, moved.merged) < EXACT
    assert gap(opened, of_learner(moved.learner["before"])) > 100 * EXACT


async def test_one_vllm_engine_serves_policy_and_verdict(moved: SimpleNamespace):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText as Auto

    classifier = load_classifier(moved.path)
    assert classifier.adapter_dir is not None
    row, codes = rows()[0], [(50,), (61,), (72, 73)]
    settings = RolloutConfig(
        **{"dtype": "float32", "max_prompt_length": 64, "max_response_length": 8},
        **{"max_batched_tokens": 256, "block_size": 32, "num_threads": 1, "kv_cache_gb": 0.1},
    )
    slots = AdapterSlots(rank=4, count=1)
    engine = await VllmEngine.start(classifier.policy_dir, settings, [], "object_store", slots)
    try:
        adapter = Adapter(
            number=1,
            version=PolicyVersion(attempt=0, step=1),
            path=str(classifier.adapter_dir),
        )
        await engine.load_adapter(adapter)
        clip = make_clip(int(row.prompt.clip_key))
        served = [
            await engine.label_logprobs(row.prompt, clip, codes, which)
            for which in (None, adapter, None)
        ]
    finally:
        await engine.end()
    policy = Auto.from_pretrained(classifier.policy_dir)
    expected = code_logprobs(policy, row, codes)
    assert gap([served[0], served[2]], [expected, expected]) < EXACT
    verdict = PeftModel.from_pretrained(policy, str(classifier.adapter_dir))
    assert gap([served[1]], [code_logprobs(verdict, row, codes)]) < EXACT
    assert gap([served[1]], [served[0]]) > 100 * EXACT


def test_the_family_class_and_the_processor_open_in_a_fresh_process(moved: SimpleNamespace):
    """Another working directory, no network, none of our code."""
    code = (
        "import sys; from transformers import AutoProcessor;"
        "from transformers import Qwen2_5_VLForConditionalGeneration as M;"
        "model = M.from_pretrained(sys.argv[1]); AutoProcessor.from_pretrained(sys.argv[1]);"
        "print(sum(p.numel() for p in model.parameters()) > 1000)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code, "elsewhere/policy"],
        cwd=moved.path.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


def test_a_lora_verdict_ends_with_its_stage(moved: SimpleNamespace):
    """The stage after it begins with whole weights again, and computes what the policy does."""
    assert not moved.learner["next_stage_has_adapter"]
    assert moved.learner["next_stage"] == moved.learner["before"]
