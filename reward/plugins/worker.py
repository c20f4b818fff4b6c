"""Worker process of a user function: loads it, reports that, answers until the driver is gone.

    line of JSON (question.py) -> the function -> lines of JSON, one per trace or per group

JSON both ways: nothing that a user function returns is unpickled in the driver.
"""

import asyncio
import faulthandler
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from reward.plugins.calls import answer
from reward.plugins.plugin import load
from wire.errors import ConfigError

_MAX_REFUSAL_CHARS = 4_000


def serve(pipe: socket.socket, settings: Mapping[str, Any]) -> None:
    """Load the function and answer questions. Never returns: user threads, and what is registered
    to run at exit, do not keep it."""
    for number, name in ((1, "stdout"), (2, "stderr")):  # the guard has put its pipe under them
        stream = os.fdopen(number, "w", buffering=1, errors="backslashreplace", closefd=False)
        setattr(sys, name, stream)
    faulthandler.enable()  # where a crash of native code happened goes into its report

    def reply(message: Mapping[str, Any]) -> None:
        pipe.sendall(json.dumps(message).encode() + b"\n")

    with pipe.makefile("rb") as questions:
        try:
            plugin = load(
                settings["spec"],
                params=settings["params"],
                style=settings["style"],
                as_messages=settings["as_messages"],
                columns=settings["columns"],
            )
        except ConfigError as error:
            reply({"refused": str(error)[:_MAX_REFUSAL_CHARS]})
            os._exit(0)
        reply(asdict(plugin.signature))
        with asyncio.Runner() as loop:
            while line := questions.readline():
                answer(plugin, json.loads(line), loop, reply)
    os._exit(0)
