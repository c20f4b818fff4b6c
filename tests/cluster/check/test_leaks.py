from cluster.check.leaks import hint_findings, leak_findings
from rollout.prompt import Prompts
from rollout.prompts_config import PromptsConfig
from tests.cluster.check.builders import LABELS, levels, make_sample, only
from wire.finding import Level
from wire.labels import Label, LabelSet


def test_labels_of_a_letter_or_two_are_not_looked_for_and_that_is_said():
    labels = LabelSet(labels=(Label(name="A"), Label(name="no")))
    findings = leak_findings(Prompts(labels), [make_sample("A-no", label="A")])
    assert Level.WARNING not in levels(findings)
    assert any("A, no" in finding.what for finding in findings)


def found(*samples, use_side_text: bool = False, **texts: str):
    return leak_findings(Prompts(LABELS, PromptsConfig(**texts), use_side_text), samples)


def test_a_label_in_a_file_name_is_found():
    finding = only(found(make_sample("fall_1"), make_sample("x"), make_sample("y")), Level.WARNING)
    assert "1 of 3 file names say their clip's label" in finding.what
    assert finding.where == ("fall_1 (fall): fall_1.mp4",)


def test_another_label_in_a_file_name_tells_nothing():
    assert Level.WARNING not in levels(found(make_sample("normal_1"), make_sample("x")))


def test_a_word_that_all_names_share_tells_nothing():
    rows = (make_sample("fall-cam-1"), make_sample("fall-cam-2", label="normal"))
    assert Level.WARNING not in levels(found(*rows))


def test_folders_named_as_the_labels_are_fine_and_said():
    rows = [
        make_sample(name, label=name, video=f"/data/{name}/0.mp4") for name in ("fall", "normal")
    ]
    findings = found(*rows)
    assert Level.WARNING not in levels(findings)
    assert any("2 of 2 clips lie in a folder named as their label" in f.what for f in findings)


def test_a_side_text_that_names_the_label_is_a_leak_only_where_prompts_show_it():
    rows = (make_sample("a", text="An old man has a fall."), make_sample("b", text="A kitchen."))
    finding = only(found(*rows, use_side_text=True), Level.WARNING)
    assert "1 of 2 side texts name their clip's label and no other" in finding.what
    hidden = found(*rows)
    assert Level.WARNING not in levels(hidden)
    assert any("no prompt shows it" in finding.what for finding in hidden)


def test_a_side_text_that_lists_all_labels_is_no_leak():
    rows = (make_sample("a", text="brush hair, fall or normal?"), make_sample("b", text="Kitchen"))
    assert Level.WARNING not in levels(found(*rows, use_side_text=True))


def test_a_file_name_in_a_side_text_is_found():
    rows = (make_sample("clip77", text="from clip77.mp4"), make_sample("clip78", text="kitchen"))
    finding = only(found(*rows, use_side_text=True), Level.WARNING)
    assert "hold their clip's file name" in finding.what


def test_a_trace_that_speaks_of_its_given_label_is_found():
    told = make_sample("a", trace="<think>The given label is fall.</think><answer>fall</answer>")
    fair = make_sample("b", trace="<think>He lies down.</think><answer>fall</answer>")
    assert levels(hint_findings([told, fair])) == [Level.WARNING]
    assert hint_findings([fair]) == []


def test_a_column_that_names_the_label_is_a_leak_only_where_prompts_show_it():
    rows = [
        make_sample("a", extra={"title": "An old man has a fall."}),
        make_sample("b", extra={"title": "A kitchen.", "note": "fall"}),
    ]
    finding = only(found(*rows, trace="{title} {labels}"), Level.WARNING)
    assert "1 of 2 values of column 'title' name their clip's label and no other" in finding.what
    assert "take {title} out of the prompts" in finding.remedy
    assert Level.WARNING not in levels(found(*rows))


def test_a_column_that_tells_the_label_by_itself_is_a_leak():
    rows = [
        make_sample(f"{camera}{n}", label=label, extra={"camera": camera})
        for camera, label in (("k1", "fall"), ("k2", "fall"), ("k3", "normal"))
        for n in range(5)
    ]
    finding = only(found(*rows, system="Camera {camera}"), Level.WARNING)
    assert "column 'camera', which prompts show, tells the label by itself in 15 of 15" in (
        finding.what
    )


def test_side_text_that_no_text_has_a_place_for_is_not_shown():
    texts = dict.fromkeys(("trace", "verdict", "label"), "{labels}")
    findings = found(make_sample("a", text="a fall"), use_side_text=True, **texts)
    assert any("no prompt shows it" in finding.what for finding in findings)
