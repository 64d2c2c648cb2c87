"""Known answers: numbers that a correct model must reproduce, with the tolerance it is held to and why.

A model's module may define ``known_answers() -> Iterator[Known]``; its test asserts each of them and
`pushforward verify` prints the same table for users.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """One comparison of our figure with an answer known in closed form or by enumeration."""

    name: str
    """What is compared, such as `"log_prob integrates to 1"`."""
    known: float
    """The exact answer."""
    ours: float
    """What the model's code gave."""
    tolerance: float
    """The largest |ours - known| that correct code can show."""
    because: str
    """Where the tolerance comes from: rounding, quadrature, or so many standard errors."""

    @property
    def difference(self) -> float:
        return self.ours - self.known

    @property
    def holds(self) -> bool:
        return abs(self.difference) <= self.tolerance
