"""Fit of the tokenizer on the segments of the training clips.

    SegmentFile, mentions, attributes -> epochs of batches of clips -> losses -> AdamW
                                                                   -> codebook's running means
                                      -> embeddings, names, figures -> Fitted

Clips are read from the disk batch by batch. The same seed, segments and number of threads give the
same bits, so a fit that was stopped is simply made again, on the CPU. A small network is fitted on
one thread, whatever the number.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learner.semantic_tokens.figures import Readings, figures_of, read_codes
from learner.semantic_tokens.losses import (
    commitment_loss,
    reconstruction_loss,
    semantic_loss,
    temporal_loss,
)
from video.semantic_tokens.config import SemanticTokensConfig
from video.semantic_tokens.description import TokenizerDescription
from video.semantic_tokens.segment_file import SegmentFile
from video.semantic_tokens.tokenizer import SemanticTokenizer, TokenizerNetwork
from wire.errors import DataError

Progress = Callable[[int, int, dict[str, float]], None]
"""Progress of a fit: epochs done, epochs of all, the last epoch's mean losses by name."""

_KEYS = SemanticTokensConfig.model_fields  # a stage's settings have more
_NEAREST_TEXTS = 3
_CLIPS_PER_READ = 256
_WORTH_THREADS = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted tokenizer and its figures on the clips that it was fitted on."""

    tokenizer: SemanticTokenizer
    figures: dict[str, float]


def fit_tokenizer(
    segments: SegmentFile,
    mentions: Sequence[tuple[int, ...]],
    attributes: Sequence[str],
    attribute_vectors: Tensor,
    config: SemanticTokensConfig,
    *,
    seed: int,
    progress: Progress = lambda done, total, losses: None,
) -> Fitted:
    """Fit a tokenizer.

    ``mentions``: per clip of ``segments`` the attributes, by number, that its text mentions; none
    for a clip without a text. ``attribute_vectors`` [A, E]: of the attributes' texts, by any
    encoder. Raises DataError if the three do not belong together.
    """
    _check(segments, mentions, attributes, attribute_vectors, config)
    config = SemanticTokensConfig(**{key: getattr(config, key) for key in _KEYS})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TokenizerNetwork(segments.places, segments.width, config)
        texts = _Texts(attribute_vectors.float(), config)
    mentioned = _mentioned(mentions, len(attributes))
    with _threads_for(segments.places * segments.width * config.hidden):
        _set_scale(network, segments)
        training = _Training(network, texts, segments, mentioned, config)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(config.epochs):
            progress(epoch + 1, config.epochs, training.epoch(generator))
        return _finish(network, texts, segments, mentions, attributes, config)


@contextmanager
def _threads_for(weights: int) -> Iterator[None]:
    """One thread for a small network: more of them only wait for each other, on a busy machine for
    minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if weights < _WORTH_THREADS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Texts(nn.Module):
    """The space in which vectors of segments and of texts are compared."""

    vectors: Tensor

    def __init__(self, vectors: Tensor, config: SemanticTokensConfig) -> None:
        super().__init__()
        centred = vectors - vectors.mean(0) if len(vectors) > 1 else vectors
        self.register_buffer("vectors", nn.functional.normalize(centred, dim=-1))
        self.of_segment = nn.Linear(config.dim, config.dim)
        self.of_text = nn.Linear(vectors.shape[-1], config.dim)

    def attributes(self) -> Tensor:
        """Vectors of the attributes ``[A, D]``."""
        projected: Tensor = self.of_text(self.vectors)
        return projected


class _Training:
    """Parameters, optimizer and schedule of one fit."""

    def __init__(
        self,
        network: TokenizerNetwork,
        texts: _Texts,
        segments: SegmentFile,
        mentioned: Tensor,
        config: SemanticTokensConfig,
    ) -> None:
        self._network, self._texts, self._config = network, texts, config
        self._segments, self._mentioned = segments, mentioned
        parameters = [*network.parameters(), *texts.parameters()]
        self._optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate)
        total = config.epochs * math.ceil(len(segments) / config.batch_size)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, total)

    def epoch(self, generator: torch.Generator) -> dict[str, float]:
        """Make one pass over the clips; mean losses and the number of codes restarted."""
        order = torch.randperm(len(self._segments), generator=generator)
        totals: dict[str, float] = {}
        batches = order.split(self._config.batch_size)
        for which in batches:
            for name, value in self._update(which, generator).items():
                totals[name] = totals.get(name, 0.0) + value
        restarted = totals.pop("restarted")
        return {name: value / len(batches) for name, value in totals.items()} | {
            "restarted": restarted
        }

    def _update(self, which: Tensor, generator: torch.Generator) -> dict[str, float]:
        config, network = self._config, self._network
        raw, is_segment = _padded(self._segments, which.tolist())
        features = network.encoder.standardise(raw)
        vectors = network.encoder(features, is_segment)
        chosen, quantised = network.codebook.quantise(vectors)
        seen = quantised if config.quantise else vectors
        codes = network.codebook.codes[chosen] if config.quantise else vectors
        losses = {
            "reconstruction": reconstruction_loss(network.decoder(seen), features, is_segment),
            "commitment": commitment_loss(vectors, codes, is_segment),
            "temporal": temporal_loss(vectors, features, is_segment),
            "semantic": semantic_loss(
                self._texts.of_segment(seen),
                self._texts.attributes(),
                self._mentioned[which],
                is_segment,
                config.temperature,
            ),
        }
        weights = {
            "reconstruction": config.reconstruction_weight,
            "commitment": config.beta,
            "temporal": config.temporal_weight,
            "semantic": config.semantic_weight,
        }
        loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        restarted = network.codebook.update(
            vectors.detach()[is_segment], chosen[is_segment], generator
        )
        return {name: float(value.detach()) for name, value in losses.items()} | {
            "loss": float(loss.detach()),
            "restarted": float(restarted),
        }


def _padded(segments: SegmentFile, which: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Segments of clips ``[B, T, S, H]``, padded with zeros, and where they are segments."""
    clips = [torch.from_numpy(clip) for clip in segments.read(which)]
    lengths = torch.tensor([len(clip) for clip in clips])
    is_segment = torch.arange(int(lengths.max())) < lengths[:, None]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), is_segment


def _blocks(segments: SegmentFile) -> Iterator[Tensor]:
    """Segments ``[N, S * H]``, float64, some clips at a time."""
    for start in range(0, len(segments), _CLIPS_PER_READ):
        which = range(start, min(start + _CLIPS_PER_READ, len(segments)))
        yield torch.cat([torch.from_numpy(x) for x in segments.read(which)]).flatten(1).double()


def _set_scale(network: TokenizerNetwork, segments: SegmentFile) -> None:
    """Take the mean and the deviation of the training segments for the encoder's first step."""
    count = sum(segments.lengths)
    mean = sum((block.sum(0) for block in _blocks(segments)), torch.zeros(())) / count
    squares = ((block - mean).square().sum(0) for block in _blocks(segments))
    deviation = (sum(squares, torch.zeros(())) / count).sqrt()
    network.encoder.mean.copy_(mean)
    network.encoder.scale.copy_(deviation.clamp_min(1e-6 * float(deviation.max()) + 1e-12))


def _mentioned(mentions: Sequence[tuple[int, ...]], num_attributes: int) -> Tensor:
    mentioned = torch.zeros(len(mentions), num_attributes, dtype=torch.bool)
    for clip, named in enumerate(mentions):
        mentioned[clip, list(named)] = True
    return mentioned


@torch.no_grad()
def _finish(
    network: TokenizerNetwork,
    texts: _Texts,
    segments: SegmentFile,
    mentions: Sequence[tuple[int, ...]],
    attributes: Sequence[str],
    config: SemanticTokensConfig,
) -> Fitted:
    codes = texts.of_segment(network.codebook.codes)
    cosines = nn.functional.cosine_similarity(codes[:, None], texts.attributes()[None], dim=-1)
    ranked = cosines.argsort(dim=-1, descending=True, stable=True)[:, :_NEAREST_TEXTS].tolist()
    nearest = tuple(tuple(attributes[i] for i in row) for row in ranked)
    description = TokenizerDescription(
        version="",
        tower=segments.tower,
        places=segments.places,
        width=segments.width,
        names=tuple(names[0] for names in nearest),
        nearest=nearest,
        config=config,
    )
    readings: Readings = read_codes(network, segments)
    figures = figures_of(readings, mentions, [row[0] for row in ranked])
    return Fitted(
        tokenizer=SemanticTokenizer(network, readings.embeddings, description), figures=figures
    )


def _check(
    segments: SegmentFile,
    mentions: Sequence[tuple[int, ...]],
    attributes: Sequence[str],
    vectors: Tensor,
    config: SemanticTokensConfig,
) -> None:
    if segments.places != config.spatial**2:
        raise DataError(
            f"segments with {segments.places} places for spatial={config.spatial}; pool them with "
            "the same setting"
        )
    if not len(segments):
        raise DataError(
            "no clip to learn a tokenizer from could be read; mend those that the quarantine names"
        )
    if len(mentions) != len(segments):
        raise DataError(
            f"mentions of {len(mentions)} clips for the segments of {len(segments)}; give one "
            "tuple per clip, empty where it has no text"
        )
    if not attributes or len(set(attributes)) < len(attributes):
        raise DataError(
            f"attributes {list(attributes)}: expected at least one phrase, each once; codes are "
            "named by them"
        )
    if vectors.ndim != 2 or len(vectors) != len(attributes):
        raise DataError(
            f"vectors of shape {tuple(vectors.shape)} for {len(attributes)} attributes; expected "
            "one row per attribute"
        )
    wrong = {i for named in mentions for i in named if not 0 <= i < len(attributes)}
    if wrong:
        raise DataError(
            f"mentions of the attributes {sorted(wrong)}; there are {len(attributes)}, from 0 on"
        )
    if config.semantic_weight and not any(mentions):
        raise DataError(
            "no clip's text mentions any attribute, so codes cannot be named: choose attributes "
            f"that occur in the texts (now {', '.join(attributes)}), other texts, or "
            "semantic_weight = 0"
        )
