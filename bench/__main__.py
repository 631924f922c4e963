"""Takes the figures of speed, one after the other: two cores are few. About 50 minutes."""

import asyncio
import sys

_MEASUREMENTS = ("commit", "fanout", "sends", "growth", "readers", "storm", "where")


async def main() -> int:
    """Runs each as a process of its own; a failed one is named at the end."""
    failed = []
    for name in _MEASUREMENTS:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", f"bench.{name}")
        if await process.wait():
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all figures are taken", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
