"""The command prompts: what the model is shown for a sample."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cluster.commands.base import add_command, add_recipe
from wire.printable import printable

if TYPE_CHECKING:
    from cluster.inputs.shown_prompt import PromptTokens, ShownPrompt

_KINDS = ("trace", "verdict", "label", "rationale", "caption")

_NO_TRACE = "no teacher's trace"
_WRITTEN = ("rationale", "caption")


def _prompts(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cluster.config.recipe import read_recipe
    from cluster.inputs.shown_prompt import choose_sample, kinds_asked, shown_prompts
    from wire.strict_json import to_json

    config = read_recipe(options.recipe, options.set)
    sample = choose_sample(config, options.sample)
    kinds = [options.kind] if options.kind else kinds_asked(config)
    shown = shown_prompts(config, sample, kinds, with_tokens=options.tokens)
    if options.json:
        turns = [[{**asdict(turn), "text": turn.text} for turn in one.turns] for one in shown]
        values = [{**asdict(one), "turns": t} for one, t in zip(shown, turns, strict=True)]
        sys.stdout.write(to_json(values, indent=2) + "\n")
        return
    lines = (line for one in shown for line in _lines(one))
    sys.stdout.write(printable("\n".join(lines) + "\n"))


def _lines(prompt: "ShownPrompt") -> Iterator[str]:
    yield (
        f"=== prompts.{prompt.kind}, version {prompt.version}: {prompt.sample_id} "
        f"({prompt.label}, {prompt.split})"
    )
    if all(turn.role != "system" for turn in prompt.turns):
        yield "--- system: what the model's chat template does by itself"
    for turn in prompt.turns:
        shows = f", with {prompt.reviewed}" if prompt.reviewed and turn.role == "user" else ""
        yield f"--- {turn.role}{shows}"
        if turn.has_video:
            yield f"[clip {prompt.video}]"
        yield turn.text
    if prompt.target is None:
        own = prompt.kind in _WRITTEN
        yield f"--- assistant: {'what the policy writes' if own else _NO_TRACE}"
    else:
        yield "--- assistant, as training teaches it"
        yield prompt.target
    if prompt.tokens:
        yield from _token_lines(prompt.tokens)
    yield ""


def _token_lines(tokens: "PromptTokens") -> Iterator[str]:
    yield "--- as the chat template writes it"
    yield tokens.chat
    if tokens.video is None:
        yield f"--- tokens: {tokens.text} of text; the clip cannot be read: {tokens.fault}"
        return
    yield (
        f"--- tokens: {tokens.text} of text + {tokens.video} of video = "
        f"{tokens.text + tokens.video}; rollout.max_prompt_length = {tokens.limit}"
    )


def add(commands: Any) -> None:
    """Register on the parser's sub-commands."""
    text = "what the model is shown for a sample; starts nothing"
    prompts = add_command(commands, "prompts", text, _prompts)
    add_recipe(prompts)
    prompts.add_argument(
        "--sample",
        metavar="ID",
        help="default: the first with a teacher's trace, or else the first",
    )
    prompts.add_argument(
        "--kind", choices=_KINDS, help="default: those that the recipe's stages ask with"
    )
    prompts.add_argument(
        "--tokens", action="store_true", help="count tokens, too: loads the model's tokenizer"
    )
    prompts.add_argument("--json", action="store_true", help="print them as JSON")
