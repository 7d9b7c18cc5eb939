"""How long until the next attempt, and how long a rate limit holds: frozen values and pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits that double, up to a cap, each scattered so that many failures do not come back together.

    Args:
        base: seconds before the second attempt.
        cap: the longest wait, in seconds; also what a wait is cut down to when the clock has jumped.
        spread: 0.5 means between half and one and a half times the wait; 0 for none.
    """

    base: float = 1.0
    cap: float = 300.0
    spread: float = 0.5

    def __post_init__(self) -> None:
        for name in ("base", "cap", "spread"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{name} must be a number, 0 or more, not {value!r}")
        if self.spread > 1:
            raise ValueError(f"spread must be at most 1, not {self.spread}")

    def wait(self, failures: int, chance: float) -> float:
        """Seconds until the next attempt after so many failures; `chance`, from 0 to 1, scatters it."""
        # The exponent is bounded: 2.0 ** 5000 is an OverflowError.
        plain = min(self.cap, self.base * 2.0 ** min(max(failures - 1, 0), 64))
        return min(self.cap, plain * (1.0 + self.spread * (2.0 * chance - 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """How long the queue pauses when a service says that it has had enough, in seconds.

    Args:
        shortest, longest: what the service asks for is kept between these: 5 minutes and 4 hours.
        usual: when it does not say: 30 minutes.
    """

    shortest: float = 300.0
    longest: float = 14400.0
    usual: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.shortest <= self.longest < math.inf:
            raise ValueError(
                f"shortest, {self.shortest}, must be 0 or more and at most longest, {self.longest}"
            )
        if not self.shortest <= self.usual <= self.longest:
            raise ValueError(f"usual, {self.usual}, must lie between shortest and longest")

    def pause(self, retry_after: float | None) -> float:
        """Seconds to pause, given what the service asked for."""
        if retry_after is None or not math.isfinite(retry_after):
            return self.usual
        return min(max(retry_after, self.shortest), self.longest)
