import pytest

from rollout.importers.parsers.ssv2 import is_ssv2, parse
from wire.errors import DataError

ROW = {
    "id": "78687",
    "label": "holding potato next to vicks vaporub bottle",
    "template": "Holding [something] next to [something]",
    "placeholders": ["potato", "vicks vaporub bottle"],
}


def test_rows_are_known_by_their_columns():
    assert is_ssv2(ROW)
    assert is_ssv2({"0": "78687", "1": "Pushing something"})
    assert not is_ssv2({"id": "78687", "label": "run"})


def test_the_class_is_the_template_without_brackets_and_the_sentence_a_caption():
    record = parse("record 1", ROW)
    assert record.label == "Holding something next to something"
    assert (record.id, record.videos) == ("78687", ("78687",))
    assert record.columns["caption"] == ROW["label"]


def test_a_line_of_a_list_has_its_class_and_no_caption():
    record = parse("line 1", {"0": "78687", "1": "Pushing something"})
    assert record.label == "Pushing something"
    assert "caption" not in record.columns


@pytest.mark.parametrize("number", [None, " ", 1.5])
def test_a_row_without_an_id_is_named(number: object):
    with pytest.raises(DataError, match="record 1: 'id' is"):
        parse("record 1", {**ROW, "id": number})
