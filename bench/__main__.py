"""Takes the first figures: serial commit, fan-out."""

import asyncio

from bench import commit, fanout


async def main() -> None:
    """One after the other: two cores are few."""
    await commit.main()
    await fanout.main()


if __name__ == "__main__":
    asyncio.run(main())
