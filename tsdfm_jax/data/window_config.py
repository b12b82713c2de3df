"""How documents are cut into windows; imports nothing heavy, because a config is checked before grain is needed."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """How documents become windows.

    Attributes:
        length: tokens per window, L.
        holdout: the share of documents held out, between 0 and 1.
        seed: decides which documents are held out.
        windows_per_shard: windows per file; the unit that an interrupted run keeps.
    """

    length: int
    holdout: float = 0.05
    seed: int = 0
    windows_per_shard: int = 4096

    def __post_init__(self):
        if self.length < 1 or self.windows_per_shard < 1:
            raise ValueError(f"length {self.length} and windows_per_shard {self.windows_per_shard} must be at least 1")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout {self.holdout} leaves a split empty: choose it between 0 and 1")
