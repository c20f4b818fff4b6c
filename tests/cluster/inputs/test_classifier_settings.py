from collections.abc import Callable
from pathlib import Path

import pytest

from calibrate.description import (
    AnswerSettings,
    ArchiveFacts,
    ClassifierDescription,
    PromptText,
    Provenance,
    SplitFacts,
)
from cluster.config.kinds.calibrate import CalibrateStage
from cluster.config.recipe import read_recipe
from cluster.inputs.classifier_settings import (
    check_renderer,
    describe,
    provenance_of,
    settings_of,
    shown_columns,
)
from rollout.render import Renderer
from wire.errors import ConfigError, DataError
from wire.labels import Label
from wire.types import PolicyVersion


@pytest.fixture
def described(recipe: Callable[..., Path], demo: Path) -> tuple[ClassifierDescription, Renderer]:
    """A recipe's classifier, and the renderer of its model."""
    config = read_recipe(recipe(), ["prompts.trace=Which of {labels}?", "video.max_frames=7"])
    renderer = Renderer.load(demo / "model", 384)
    description = describe(
        config,
        renderer.label_codes(config.label_set),
        name="calibrated",
        sources=("policy", "verdict"),
        policy=PolicyVersion(attempt=1, step=82),
        answers=AnswerSettings(seed=3),
    )
    return ClassifierDescription.model_validate_json(description.model_dump_json()), renderer


def test_a_classifier_asks_as_its_recipe_does(described, recipe: Callable[..., Path]):
    description, _ = described
    settings = settings_of(description)
    config = read_recipe(recipe(), ["prompts.trace=Which of {labels}?", "video.max_frames=7"])
    assert settings.prompts == config.prompt_set
    assert settings.video == config.video
    assert settings.rollout.max_response_length == 40
    assert settings.prompts.versions == {
        name: prompt.version for name, prompt in description.prompts.items() if name != "system"
    }


def test_the_machine_gives_its_own_settings_and_no_others(described):
    description, _ = described
    settings = settings_of(description, {"num_threads": 7, "dtype": "bfloat16"})
    assert (settings.rollout.num_threads, settings.rollout.dtype) == (7, "float32")


def test_settings_of_another_version_are_named(described):
    description, _ = described
    newer = description.model_copy(update={"video": {**description.video, "new": 1}})
    with pytest.raises(ConfigError, match="the classifier calibrated, video: unknown key 'new'"):
        settings_of(newer)


def test_another_tokenizer_is_refused(described):
    description, renderer = described
    check_renderer(description, renderer)
    codes = {**description.label_codes, "undo": (1, 2)}
    with pytest.raises(DataError, match=r"writes label 'undo' as .* expected \(1, 2\)"):
        check_renderer(description.model_copy(update={"label_codes": codes}), renderer)


def test_without_a_verdict_no_code_is_compared(described):
    description, renderer = described
    check_renderer(description.model_copy(update={"label_codes": {}}), renderer)


def test_provenance_has_the_settings_and_no_path(recipe: Callable[..., Path], demo: Path):
    config = read_recipe(recipe(), ["calibrate.epochs=3", "seed=5"])
    (stage,) = [stage for stage in config.chain if isinstance(stage, CalibrateStage)]
    provenance = provenance_of(
        config,
        stage,
        archive=ArchiveFacts(name="run"),
        splits={"cal": SplitFacts(clips=5, use="learned from")},
    )
    assert provenance.settings["calibrate.epochs"] == 3
    assert provenance.settings["evaluate.temperature"] == 0.01
    assert provenance.seeds == {"run": 5}
    assert provenance.packages["torch"]
    assert str(demo) not in provenance.model_dump_json()
    assert provenance == Provenance.model_validate_json(provenance.model_dump_json())


def test_prompts_show_the_labels_that_a_head_was_fitted_to_whatever_it_tells_apart_now(described):
    before, _ = described
    split = before.model_copy(
        update={
            "labels": (*before.labels, Label(name="new part")),
            "shown_labels": before.labels,
        }
    )
    assert "new part" in split.label_names
    assert settings_of(split).prompts.labels.names == before.label_names


def test_a_head_over_the_video_alone_needs_the_columns_of_the_label_prompt(described):
    before, _ = described
    text = PromptText.of("Name it. {camera}", "x")
    values = {"prompts": {**before.prompts, "label": text}, "sources": ("head",)}
    trace, video = (
        before.model_copy(update={**values, "head_features": features})
        for features in ("trace", "video")
    )
    assert "camera" not in shown_columns(trace)
    assert shown_columns(video)["camera"] == ("label",)
