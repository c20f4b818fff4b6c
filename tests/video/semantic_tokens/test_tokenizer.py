import shutil
from pathlib import Path

import pytest
import torch

from tests.video.semantic_tokens.builders import PLACES, WIDTH, segments, tokenizer
from video.semantic_tokens.description import DESCRIPTION_NAME, WEIGHTS_NAME
from video.semantic_tokens.tokenizer import SemanticTokenizer
from wire.errors import DataError, DiskFull


def test_the_same_clip_has_the_same_codes_on_any_number_of_threads():
    one, clip = tokenizer(num_codes=64), segments(500)
    threads = torch.get_num_threads()
    there = set()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            there.add(one.codes(clip))
    finally:
        torch.set_num_threads(threads)
    assert len(there) == 1
    assert len(set(there.pop())) > 8


def test_a_code_does_not_depend_on_the_other_segments_without_context():
    one, clip = tokenizer(num_codes=64), segments(50)
    assert one.codes(clip) == tuple(code for part in clip for code in one.codes(part[None]))


def test_a_tokenizer_is_read_as_it_was_saved(tmp_path: Path):
    one = tokenizer()
    one.save(tmp_path / "tokenizer")
    two = SemanticTokenizer.load(tmp_path / "tokenizer", tower="tower")
    assert (two.version, two.names, two.description.nearest) == (
        one.version,
        one.names,
        one.description.nearest,
    )
    assert (two.tower, two.config) == (one.tower, one.config)
    assert torch.equal(two.embeddings, one.embeddings)
    assert two.codes(segments()) == one.codes(segments())
    assert torch.equal(two.soft(segments()), one.soft(segments()))
    modes = {path.stat().st_mode for path in (tmp_path / "tokenizer").iterdir()}
    assert len(modes) == 1  # whoever may read the names may read the weights
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [DESCRIPTION_NAME, WEIGHTS_NAME]


def test_the_version_is_of_the_content():
    versions = {tokenizer(seed=seed).version for seed in (0, 0, 1)}
    versions |= {tokenizer(tower="other").version, tokenizer(beta=0.5).version}
    assert len(versions) == 4
    assert all(len(version) == 12 and int(version, 16) >= 0 for version in versions)


def test_unquantised_embeddings_are_each_segments_own_mean_over_places():
    soft = tokenizer().soft(segments(7).bfloat16())
    assert soft.dtype is torch.float32
    assert torch.equal(soft, segments(7).bfloat16().float().mean(1))
    with pytest.raises(DataError, match=r"expects at least one of \[4, 6\]"):
        tokenizer().soft(torch.zeros(2, PLACES, WIDTH + 1))


def test_bfloat16_features_are_taken():
    assert len(tokenizer().codes(segments().bfloat16())) == 7


def test_another_tower_and_other_sizes_are_refused(tmp_path: Path):
    tokenizer().save(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="its codes would mean nothing here"):
        SemanticTokenizer.load(tmp_path / "tokenizer", tower="another")
    with pytest.raises(DataError, match=r"expects at least one of \[4, 6\]"):
        tokenizer().codes(torch.zeros(2, PLACES, WIDTH + 1))


def test_changed_weights_are_refused(tmp_path: Path):
    tokenizer(seed=0).save(tmp_path / "one")
    tokenizer(seed=1).save(tmp_path / "two")
    shutil.copy(tmp_path / "two" / WEIGHTS_NAME, tmp_path / "one")
    with pytest.raises(DataError, match="it was changed"):
        SemanticTokenizer.load(tmp_path / "one")
    (tmp_path / "one" / WEIGHTS_NAME).write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read"):
        SemanticTokenizer.load(tmp_path / "one")


def test_a_tokenizer_that_could_not_be_written_whole_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("video.semantic_tokens.tokenizer.write_json", full)
    with pytest.raises(DiskFull, match=r"disk of .* is full"):
        tokenizer().save(tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()
