import pytest

from cluster.check.overlap import by_content, content_findings, group_findings
from tests.cluster.check.builders import levels, make_sample, make_scan, only, scans_of
from wire.errors import ConfigError
from wire.finding import Level
from wire.types import Split


def test_clips_of_different_content_are_fine():
    samples = [make_sample("a"), make_sample("b", split=Split.TEST)]
    assert levels(content_findings(samples, scans_of(*samples))) == [Level.OK]


def test_one_content_in_two_splits_is_found_under_any_name():
    samples = [make_sample("a"), make_sample("b", split=Split.TEST), make_sample("c")]
    scans = {**scans_of(*samples), "/data/b.mp4": make_scan("/data/a.mp4")}
    finding = only(content_findings(samples, scans), Level.WARNING)
    assert "1 of 2 clips are in more than one split" in finding.what
    assert finding.where == ("a (train) = b (test)",)


def test_a_clip_twice_in_a_split_and_in_another_is_both():
    samples = [make_sample("a"), make_sample("b"), make_sample("c", split=Split.CAL)]
    scans = dict.fromkeys([sample.video for sample in samples], make_scan())
    said = [finding.what for finding in content_findings(samples, scans)]
    assert any("more than one split" in what for what in said)
    assert any("more than once in a split" in what for what in said)


def test_one_content_with_two_labels_is_found():
    samples = [make_sample("a"), make_sample("b", label="normal")]
    scans = dict.fromkeys([sample.video for sample in samples], make_scan())
    torn = content_findings(samples, scans)[0]
    assert "two labels" in torn.what
    assert torn.where == ("a (fall) = b (normal)",)


def test_a_view_of_a_clip_is_another_thing_than_the_clip():
    samples = [make_sample("a"), make_sample("b", video="/data/a.mp4#view=blank")]
    scans = {"/data/a.mp4": make_scan()}
    assert levels(content_findings(samples, scans)) == [Level.OK]
    assert len(by_content(samples, scans)) == 2


def test_a_clip_that_was_not_read_is_equal_to_nothing():
    samples = [make_sample("a"), make_sample("b", split=Split.TEST)]
    assert content_findings(samples, {}) == []


def test_a_group_in_two_splits_is_found():
    samples = [
        make_sample("a", extra={"camera": 1}),
        make_sample("b", extra={"camera": 1}, split=Split.TEST),
        make_sample("c", extra={"camera": 2}),
    ]
    (finding,) = group_findings(samples, ["camera"])
    assert finding.level is Level.WARNING
    assert finding.where == ("1: test, train",)
    assert group_findings(samples[1:], ["camera"])[0].level is Level.OK


def test_a_column_named_group_is_looked_at_without_being_asked():
    samples = [make_sample(s, extra={"group": "g"}, split=Split(s)) for s in ("train", "test")]
    assert levels(group_findings(samples, [])) == [Level.WARNING]
    assert group_findings([make_sample()], []) == []


def test_an_unknown_group_column_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no row has a column 'scene'.*camera"):
        group_findings([make_sample(extra={"camera": 1})], ["scene"])
