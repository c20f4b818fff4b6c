"""A service with a scripted engine in a process of its own: to be killed, or measured. (No test
file.)

    python -m tests.calibrate.service.scripted_service FOLDER [--delay-s S] [--places N]

All of it is real but the engine and the reading of containers: HTTP, queue, files, decisions on
disk. Prints its address with a token, as `deepintuit serve` does; SIGTERM ends it in order.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from calibrate.service.http.app import make_app
from calibrate.service.http.server import serve, signals_stop
from calibrate.service.service import open_service
from tests.calibrate.service.fakes import ScriptedBackend, publish_tiny
from tests.calibrate.service.running import make_config, make_parts


async def main(folder: Path, delay_s: float, places: int) -> None:
    root = folder / "root"
    root.mkdir(exist_ok=True)
    config = make_config(
        folder,
        roots=(root,),
        rate={"per_second": 100_000, "burst": 100_000},
        max_in_flight=places,
    )
    stop = asyncio.Event()
    async with open_service(config, make_parts(backend=ScriptedBackend(delay_s=delay_s))) as one:
        if not one.registry.list():
            version = one.registry.register(
                publish_tiny(folder / "published").path, source="benchmark", by="benchmark"
            )
            one.registry.promote(
                version.version, by="benchmark", expected_champion=None, reason="benchmark"
            )
        token = one.tokens.create("benchmark", ["admin"], by="benchmark")

        def listening(url: str) -> None:
            sys.stdout.write(f"open {url}/#token={token}\n")
            sys.stdout.flush()

        with signals_stop(stop, lambda: None, lambda: sys.exit(1)):
            await serve(make_app(one), stop, listening)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--places", type=int, default=64)
    options = parser.parse_args()
    asyncio.run(main(options.folder, options.delay_s, options.places))
