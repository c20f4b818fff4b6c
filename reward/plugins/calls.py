"""The child's side of a call: a question -> the arguments of verl's or TRL's shape -> replies.

    question -> once per trace (verl), or per group (verl's batch manager, TRL)
             -> {"index", "value" | "error"} ...

Runs beside user code, in its process: whatever that raises or returns becomes a reply.
"""

import asyncio
import copy
import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from reward.plugins.plugin import Plugin
from reward.plugins.question import unpacked
from reward.plugins.signature import LABEL_COLUMNS, VERL_ARGUMENTS

_MAX_SAID_CHARS = 300  # of the 500 that the runner keeps: place and hint come after it
_MAX_TRACEBACK_CHARS = 4_000
_MAX_FRAMES = 12
_MAX_EXTRAS = 32
_MAX_NAME_CHARS = 64
_MESSAGES_EXPECTED = ("string indices must be integers", "'str' object has no attribute 'get'")

Reply = dict[str, Any]


def answer(
    plugin: Plugin,
    question: Mapping[str, Any],
    loop: asyncio.Runner,
    reply: Callable[[Reply], None],
) -> None:
    """Call the function in the way of its shape and reply, trace by trace or for all at once."""
    if lacking := plugin.missing(question["columns"].keys()):
        error = {"error": f"needs {lacking}, which sample {question['sample_id']} has not"}
        for trace in question["traces"]:
            reply({"index": trace["index"], **error})
    elif plugin.signature.is_batched:
        reply(_ask_batch(plugin, question, loop))
    elif plugin.signature.is_async:
        loop.run(_ask_side_by_side(plugin, question, reply))
    else:
        for trace in question["traces"]:
            arguments = _verl_arguments(plugin, question, trace)
            reply({"index": trace["index"], **_call(plugin, arguments, loop)})


def _call(plugin: Plugin, arguments: Mapping[str, Any], loop: asyncio.Runner) -> Reply:
    try:
        value = plugin.function(**arguments)
        return read_value(loop.run(_awaited(value)) if inspect.isawaitable(value) else value)
    except BaseException as error:  # noqa: BLE001  other people's code, sys.exit included; becomes a Failure
        return _raised(error)


async def _awaited(value: Any) -> Any:
    return await value


async def _ask_side_by_side(
    plugin: Plugin, question: Mapping[str, Any], reply: Callable[[Reply], None]
) -> None:
    async def one(trace: Mapping[str, Any]) -> None:
        try:
            value = await plugin.function(**_verl_arguments(plugin, question, trace))
            outcome = read_value(value)
        except BaseException as error:  # noqa: BLE001  as above
            outcome = _raised(error)
        reply({"index": trace["index"], **outcome})

    await asyncio.gather(*[one(trace) for trace in question["traces"]])


def _ask_batch(plugin: Plugin, question: Mapping[str, Any], loop: asyncio.Runner) -> Reply:
    """One call for all traces: ``{"batch": replies}``, or an error of the whole call. ``retry``:
    one trace may be to blame, so each is worth asking alone."""
    traces = question["traces"]
    log = _Log(len(traces))
    try:
        values = plugin.function(**_batch_arguments(plugin, question, log))
        if inspect.isawaitable(values):
            values = loop.run(_awaited(values))
        if hasattr(values, "tolist"):  # a NumPy array or torch tensor
            values = values.tolist()
    except BaseException as error:  # noqa: BLE001  as above
        return {**_raised(error), "retry": True}
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return {"error": f"returned {_got(values)}, expected a list of one reward per completion"}
    if len(values) != len(traces):
        return {"error": f"returned {len(values)} rewards for {len(traces)} completions"}
    return {"batch": [_with(_read_safely(v), log.of(i)) for i, v in enumerate(values)]}


def _verl_arguments(
    plugin: Plugin, question: Mapping[str, Any], trace: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a verl function: verl's four, where the function takes them, and the columns
    that it names."""
    signature = plugin.signature
    four = _verls_four(question, trace)
    columns = {name: four["extra_info"][name] for name in question["columns"]}
    named = {name: value for name, value in columns.items() if name in signature.names}
    taken = {name: value for name, value in four.items() if signature.takes(name)}
    return {**named, **taken, **copy.deepcopy(plugin.params)}


def _verls_four(question: Mapping[str, Any], trace: Mapping[str, Any]) -> dict[str, Any]:
    columns = copy.deepcopy(question["columns"])  # what one call changes is no other's
    own = {
        "sample_id": question["sample_id"],
        "split": question["split"],
        "is_truncated": trace["is_truncated"],
        "policy_version": trace["policy_version"],
    }
    return {
        "data_source": str(columns.get("data_source", "")),
        "solution_str": trace["text"],
        "ground_truth": question["label"],
        "extra_info": {**columns, **own},
    }


def _batch_arguments(plugin: Plugin, question: Mapping[str, Any], log: "_Log") -> dict[str, Any]:
    """Arguments of a function that is called once per group, each of them a list."""
    if plugin.signature.style == "trl":
        return _trl_arguments(plugin, question, log)
    signature = plugin.signature
    each = [_verls_four(question, trace) for trace in question["traces"]]
    four = {f"{name}s": [values[name] for values in each] for name in VERL_ARGUMENTS}
    taken = {name: values for name, values in four.items() if signature.takes(name)}
    named = _columns_as_lists(question, signature.names)
    return {**named, **taken, **copy.deepcopy(plugin.params)}


def _columns_as_lists(question: Mapping[str, Any], names: Iterable[str]) -> dict[str, list[Any]]:
    columns = question["columns"]
    return {
        name: [copy.deepcopy(columns[name]) for _ in question["traces"]]
        for name in names
        if name in columns
    }


def _trl_arguments(plugin: Plugin, question: Mapping[str, Any], log: "_Log") -> dict[str, Any]:
    """Arguments of a TRL function: TRL's own, and each column as a list, where the function takes
    them."""
    signature = plugin.signature
    traces, count = question["traces"], len(question["traces"])
    prompt, texts = question["prompt"], [trace["text"] for trace in traces]
    prompts: list[Any] = [prompt] * count
    completions: list[Any] = texts
    if plugin.as_messages:
        prompts = [[{"role": "user", "content": prompt}] for _ in traces]
        completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = _columns_as_lists(question, filter(signature.takes, question["columns"]))
    given = {
        **dict.fromkeys(LABEL_COLUMNS, [question["label"]] * count),
        **columns,
        "prompts": prompts,
        "completions": completions,
        "trainer_state": SimpleNamespace(global_step=question["step"]),
        "log_extra": log.extra,
        "log_metric": log.metric,
    }
    if signature.wants_ids:
        given["completion_ids"] = [unpacked(trace["ids"]) for trace in traces]
    taken = {name: value for name, value in given.items() if signature.takes(name)}
    return {**taken, **copy.deepcopy(plugin.params)}


class _Log:
    """TRL's ``log_extra`` and ``log_metric``: numeric values join a trace's extras."""

    def __init__(self, count: int) -> None:
        self._extras: list[dict[str, Any]] = [{} for _ in range(count)]

    def extra(self, column: str, values: Sequence[Any]) -> None:
        for extras, value in zip(self._extras, values, strict=False):
            extras[column] = value

    def metric(self, name: str, value: Any) -> None:
        for extras in self._extras:
            extras[name] = value

    def of(self, index: int) -> dict[str, float]:
        return _numbers(self._extras[index])


def _with(reply: Reply, extras: Mapping[str, float]) -> Reply:
    return {**reply, "extras": dict(extras)} if extras and "value" in reply else reply


def _read_safely(value: Any) -> Reply:
    try:
        return read_value(value)
    except BaseException as error:  # noqa: BLE001  as above: the value's own methods are other people's code
        return _raised(error)


def read_value(value: Any) -> Reply:
    """A user function's return value for one trace -> ``{"value": finite float or None}``, with the
    numeric ``extras`` of verl's dict; or ``{"error": why not}``.

    Accepts None (not applicable), numbers, NumPy and torch scalars, and verl's dict with one of
    them under ``score``.
    """
    extras: dict[str, float] = {}
    if isinstance(value, Mapping):
        if "score" not in value:
            return {"error": f"returned a dict without 'score'; its keys: {str(list(value))[:80]}"}
        extras = _numbers({name: v for name, v in value.items() if name != "score"})
        value = value["score"]
    if value is None:
        return _with({"value": None}, extras)
    try:
        number = _number(value)
    except (TypeError, ValueError, RuntimeError) as error:  # an array, say
        if not hasattr(value, "item"):
            raise
        return {"error": f"returned {_got(value)}, expected a number, not: {error}"}
    if number is None:
        return {"error": f"returned {_got(value)}, expected a number, None, or a dict with 'score'"}
    if not math.isfinite(number):
        return {"error": f"returned {number}, expected a finite number"}
    return _with({"value": number}, extras)


def _number(value: Any) -> float | None:
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    """Finite numbers among a function's extras, the first few of them: those that can be logged."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if len(numbers) == _MAX_EXTRAS:
            break
        try:
            number = _number(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # an array, say
            continue
        if number is not None and math.isfinite(number):
            numbers[str(name)[:_MAX_NAME_CHARS].replace("/", "_")] = number
    return numbers


def _got(value: Any) -> str:
    return f"{repr(value)[:80]} ({type(value).__name__})"


def _raised(error: BaseException) -> Reply:
    try:
        message = repr(error)[:_MAX_SAID_CHARS]
    except BaseException:  # noqa: BLE001  as above: __repr__ is other people's code too
        message = f"{type(error).__name__} (its repr raises)"
    frames = traceback.extract_tb(error.__traceback__)
    lines = traceback.format_exception(error, limit=-_MAX_FRAMES, chain=False)
    hint = ""
    if any(sign in message for sign in _MESSAGES_EXPECTED):
        hint = '; if it expects chat messages, set completion_format = "messages" in its term'
    return {
        "error": f"{message} at {frames[-1].filename}:{frames[-1].lineno}{hint}",
        "traceback": "".join(lines)[-_MAX_TRACEBACK_CHARS:],
    }
