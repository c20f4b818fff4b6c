import pytest

from reward.builtins.params import (
    Params,
    position,
    refuse_incomplete_labels,
    refuse_unknown_labels,
)
from wire.errors import ConfigError
from wire.labels import Label, LabelSet

LABELS = LabelSet(labels=(Label(name="Walk"), Label(name="Run"), Label(name="Fall")))


class Limits(Params):
    lowest: int = 3


def test_parameters_are_the_keyword_arguments_of_the_function():
    assert Limits(lowest=5).arguments() == {"lowest": 5}
    assert Params().arguments() == {}


def test_a_name_that_is_no_label_is_refused_with_the_nearest():
    refuse_unknown_labels("order", ["run", "Walk"], LABELS)
    with pytest.raises(ConfigError, match=r"order names 'Runn', which is no label.*'Run'"):
        refuse_unknown_labels("order", ["Walk", "Runn"], LABELS)


def test_a_list_of_all_labels_lacks_none_and_names_none_twice():
    refuse_incomplete_labels("order", ["fall", " Run", "WALK"], LABELS)
    with pytest.raises(ConfigError, match=r"lacks the labels \['Fall'\]"):
        refuse_incomplete_labels("order", ["Run", "Walk"], LABELS)
    with pytest.raises(ConfigError, match=r"names \['run'\] more than once"):
        refuse_incomplete_labels("order", ["Run", "Walk", "Fall", "run"], LABELS)


def test_a_label_has_its_position_whatever_its_case():
    assert [position(name, LABELS.names) for name in ("fall", " RUN ", "Walk")] == [0, 1, 2]
