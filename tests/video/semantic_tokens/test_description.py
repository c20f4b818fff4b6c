from dataclasses import replace
from pathlib import Path

import pytest

from tests.video.semantic_tokens.builders import tokenizer
from video.semantic_tokens.description import DESCRIPTION_NAME, TokenizerDescription
from wire.errors import DataError


def test_a_description_is_read_as_it_was_saved(tmp_path: Path):
    one = tokenizer()
    one.save(tmp_path / "tokenizer")
    assert TokenizerDescription.read(tmp_path / "tokenizer") == one.description


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"no tokenizer in .*/tokenizer: cannot read"):
        TokenizerDescription.read(tmp_path / "tokenizer")


def test_a_file_that_describes_something_else_is_refused(tmp_path: Path):
    (tmp_path / DESCRIPTION_NAME).write_text('{"version": "a"}')
    with pytest.raises(DataError, match="is no description of a tokenizer: Field required at"):
        TokenizerDescription.read(tmp_path)


def test_another_tower_is_refused():
    description = tokenizer(tower="0123456789abcdef").description
    description.check_tower("0123456789abcdef")
    with pytest.raises(DataError, match="belongs to the tower 0123456789ab, and this model's is f"):
        description.check_tower("f" * 16)


def test_every_code_has_a_name():
    with pytest.raises(ValueError, match="expected one of each per code"):
        replace(tokenizer().description, names=("one",))
