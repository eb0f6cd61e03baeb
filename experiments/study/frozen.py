"""Settings of studies that search masks over weights which stay as they are."""

import dataclasses
from typing import ClassVar

from experiments.study import settings


@dataclasses.dataclass(frozen=True)
class Frozen(settings.Settings):
    """A mask is tested over the weights that it was searched over, not trained."""

    VERDICTS: ClassVar = False

    def trains(self, promises) -> bool:
        return not promises.hard

    def training(self, resumed: int) -> tuple[int, int]:
        del resumed
        return 0, 0
