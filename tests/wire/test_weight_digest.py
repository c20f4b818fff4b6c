import pytest
import torch

from wire import weight_digest
from wire.weight_digest import DigestRecorder, tensor_digest


def digest(tensor: torch.Tensor) -> int:
    return int(tensor_digest(tensor))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (17, 1024)])
def test_one_changed_bit_of_any_element_changes_the_digest(
    dtype: torch.dtype, shape: tuple[int, ...]
):
    tensor = (torch.randn(shape) * 9).to(dtype)
    before = digest(tensor)
    assert digest(tensor.clone()) == before
    raw = tensor.view(-1).view(torch.uint8)
    for place in {0, len(raw) // 2, len(raw) - 1}:
        raw[place] ^= 1
        assert digest(tensor) != before
        raw[place] ^= 1
    assert digest(tensor) == before


def test_elements_that_trade_places_change_the_digest():
    tensor = torch.arange(4096.0)
    other = tensor.clone()
    other[[0, 4000]] = tensor[[4000, 0]]
    assert digest(tensor) != digest(other)
    assert digest(tensor) != digest(tensor.flip(0))


def test_a_view_has_the_digest_of_its_copy():
    tensor = torch.randn(9, 7).bfloat16()
    for view in (tensor[1:], tensor.T, tensor[:, 1:3], tensor.reshape(-1)[1:]):
        assert digest(view) == digest(view.clone())


def test_the_path_of_a_gpu_has_the_digest_of_the_cpus(monkeypatch: pytest.MonkeyPatch):
    words = torch.randint(-(2**63), 2**63 - 1, (100_000,))
    expected = digest(words)
    monkeypatch.setattr(weight_digest, "_WORDS", 999)
    assert int(weight_digest._torch_digest(words)) == expected


def test_a_recorder_passes_tensors_on_and_names_their_digests():
    tensors = [("a", torch.ones(3)), ("b", torch.zeros(2))]
    recorder = DigestRecorder()
    assert list(recorder.of(tensors)) == tensors
    assert recorder.digests == {name: digest(tensor) for name, tensor in tensors}
    assert DigestRecorder().digests == {}
