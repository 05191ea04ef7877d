"""Rate: how many requests a second each key may send."""

from __future__ import annotations


class Rate:
    """The generic cell rate algorithm: ``per_second`` requests per key on average, as many at once.

    Below one a second, one at once. Each process counts for itself.
    """

    def __init__(self, per_second: float):
        self.step = 1 / per_second
        self.ahead = max(1.0, per_second) * self.step - self.step  # seconds by which requests may come early
        self.due: dict[bytes, float] = {}  # key -> when the next one would come at an even pace

    def wait(self, key: bytes, now: float) -> float:
        """Seconds until ``key`` may send a request; 0: it may ``now`` (monotonic, seconds), and it is counted."""
        due = max(self.due.get(key, now), now)
        if due - now > self.ahead + 1e-9:
            return due - now - self.ahead
        self.due[key] = due + self.step
        return 0.0
