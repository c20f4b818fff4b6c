import json
from pathlib import Path

import pytest

from video.families import FAMILIES, family_named, family_of, read_config
from wire.errors import ConfigError


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_model_has_the_family_of_its_type(tmp_path: Path, model_type: str):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert family_of(tmp_path) is FAMILIES[model_type] is family_named(model_type)


def test_another_type_is_refused_with_those_that_can_be_trained():
    with pytest.raises(ConfigError, match="'llava' cannot be trained here; use one of: qwen2_vl, "):
        family_named("llava")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read"), ("{", "cannot read"), ("[]", "holds no settings")],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"{message}.*config\.json|config\.json {message}"):
        read_config(tmp_path)
