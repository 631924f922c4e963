"""`dataclass` for values that are made by the thousand a second: frozen for the type checker alone.

Python's own frozen dataclass sets each field through `object.__setattr__`, which takes three times as long; it was 8 %
of a node's time and 10 % of a worker's. Nothing here is changed after it was made: mypy sees to that, as before.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414  # for others
else:
    import dataclasses

    def dataclass(*, frozen: bool = False, **options: Any) -> Any:
        """Takes what dataclasses.dataclass takes; a frozen class stays hashable."""
        return dataclasses.dataclass(frozen=False, unsafe_hash=frozen, **options)
