import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.message import Foreign
from rollout.prompt_template import Template, value_text


def test_a_template_is_filled_in_one_pass() -> None:
    template = Template.parse("{a}-{ b }-{a}")
    assert template.fields == ("a", "b")
    assert template.fill({"a": "{b}", "b": "{{"}) == ("{b}", "-", "{{", "-", "{b}")


def test_what_is_ours_and_what_is_others_is_kept_apart() -> None:
    parts = Template.parse("Labels: {labels}. {again}").fill({"labels": Foreign("x"), "again": "y"})
    assert [part for part in parts if isinstance(part, Foreign)] == ["x"]


def test_doubled_braces_write_json() -> None:
    template = Template.parse('Write {{"answer": "{label}", "why": {{}}}}.')
    assert "".join(template.fill({"label": "x"})) == 'Write {"answer": "x", "why": {}}.'


@given(st.text())
def test_any_text_with_its_braces_doubled_is_that_text(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    try:
        template = Template.parse(doubled)
    except ValueError as error:
        assert "is Jinja" in str(error)  # noqa: PT017 -- the one refusal that doubling meets
        return
    assert "".join(template.fill({})) == text
    assert template.fields == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('Write\n{"answer": "x"}', 'line 2: the brace of \'{"answer": "x"}\' is no field\'s name'),
        ("{}", "is no field's name"),
        ("{0:>3}", "is no field's name"),
        ("{labels", "line 1: the brace of '{labels' stands alone"),
        ("a }", "stands alone"),
        ("{{ content | trim }} think", "is Jinja; a field is a name in single braces"),
        ("{{ content }}", "is Jinja"),
        ("{% if x %}{labels}{% endif %}", "is Jinja"),
    ],
)
def test_a_brace_that_is_no_field_is_refused_with_the_way_to_write_it(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="written twice") as refused:
        Template.parse(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[("a\nb", "a\nb"), ("", ""), (0, "0"), (3.0, "3"), (0.1, "0.1"), (-2.5, "-2.5")],
        *[(True, "true"), ([], ""), (["a", 1.0, None], "a, 1, "), (None, None)],
        *[(float("nan"), None), ({"a": ["\u00e9"]}, json.dumps({"a": ["\u00e9"]}))],
    ],
)
def test_values_are_printed_plainly(value: Any, text: str | None) -> None:
    if isinstance(value, dict):
        text = '{"a": ["\u00e9"]}'
    assert value_text(value) == text
