import pytest
from pydantic import ValidationError

from video.semantic_tokens.config import SemanticTokensConfig


def test_a_context_that_is_even_is_refused():
    with pytest.raises(ValidationError, match="context=4; expected an odd number"):
        SemanticTokensConfig(context=4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_codes", 1),
        ("decay", 1.0),
        ("beta", -1.0),
        ("temperature", 0.0),
        ("epochs", 0),
        ("spatial", 0),
        ("segment_steps", 0),
        ("restart_below", 1.5),
        ("unknown", 1),
    ],
)
def test_values_out_of_bounds_and_unknown_keys_are_refused(key: str, value: float):
    with pytest.raises(ValidationError, match=key):
        SemanticTokensConfig.model_validate({key: value})
