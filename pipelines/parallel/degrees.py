"""Over how many ranks a transformer is spread, which way, and whether it can be. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """`tensor` ranks share the weights of a block, `ulysses` such groups share the tokens."""

    tensor: int = 1
    ulysses: int = 1

    @property
    def ranks(self) -> int:
        return self.tensor * self.ulysses

    def check(self, heads: int) -> None:
        """Raises ConfigurationError unless each rank gets as many of a block's attention heads."""
        if min(self.tensor, self.ulysses) < 1:
            raise ConfigurationError(
                f"parallel: tensor {self.tensor} and ulysses {self.ulysses} must be at least 1"
            )
        if heads % self.ranks:
            works = [n for n in range(1, heads + 1) if heads % n == 0]
            nearest = max(n for n in works if n <= self.ranks)
            raise ConfigurationError(
                f"parallel: tensor {self.tensor} x ulysses {self.ulysses} = {self.ranks} ranks"
                f" cannot share {heads} attention heads evenly; choose degrees whose product is one"
                f" of {works}, such as {nearest}"
            )


def shares(count: int, parts: int) -> list[int]:
    """`count` things dealt to `parts` evenly, the first getting what is left over."""
    return [count // parts + (index < count % parts) for index in range(parts)]


def spans(sizes: Sequence[int]) -> list[slice]:
    """Neighbouring slices of these sizes, from 0 on."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
