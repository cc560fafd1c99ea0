"""Things that are built for a block and removed at its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Built(ABC):
    """A context manager whose parts are removed also when building it fails half-way."""

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _build(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Remove what there is of it; again, where a signal kept it from being done."""
