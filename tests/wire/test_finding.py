import pytest

from wire.errors import ConfigError
from wire.finding import Area, Finding, Level, collect_refusals, error, from_error, ok, warning


def test_each_level_has_its_maker():
    assert ok(Area.CLIPS, "9 clips").level is Level.OK
    assert warning(Area.CLIPS, "one is short", "leave it out", ["a"]).where == ("a",)
    assert error(Area.CLIPS, "one is missing", "bring it").level is Level.ERROR


def test_a_message_is_parted_at_its_last_semicolon_into_fault_and_remedy():
    assert from_error(Area.RECIPE, "a is 3; b is 4; lower a") == Finding(
        level=Level.ERROR, area=Area.RECIPE, what="a is 3; b is 4", remedy="lower a"
    )
    assert from_error(Area.RECIPE, "a is 3").remedy == ""


def test_a_refusal_of_the_block_becomes_a_finding_and_the_check_goes_on():
    findings: list[Finding] = []
    with collect_refusals(findings, Area.MODEL):
        raise ConfigError("no such model; give another")
    assert [(f.area, f.what, f.remedy) for f in findings] == [
        (Area.MODEL, "no such model", "give another")
    ]


def test_a_bug_in_the_block_is_no_finding():
    findings: list[Finding] = []
    with pytest.raises(ZeroDivisionError), collect_refusals(findings, Area.MODEL):
        raise ZeroDivisionError
    assert findings == []
