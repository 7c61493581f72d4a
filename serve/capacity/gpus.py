"""GPUs by their names: how much memory they have, and which of AWS's machines carry them."""

from __future__ import annotations

import re

MEMORY_GIB = {
    "T4": 14,
    "A10G": 22,
    "L4": 22,
    "L40S": 44,
    "A100": 39,
    "A100-40G": 39,
    "A100-80G": 79,
    "H100": 79,
    "H200": 139,
    "B200": 178,
}
"""GiB that CUDA can use, rounded down, by Ray's `accelerator_type`; an A100 may be either."""

_AWS = {
    "g4dn": "T4",
    "g5": "A10G",
    "g6": "L4",
    "g6e": "L40S",
    "p4d": "A100-40G",
    "p4de": "A100-80G",
    "p5": "H100",
    "p5e": "H200",
    "p5en": "H200",
    "p6-b200": "B200",
}


def counted(number: float, noun: str) -> str:
    """`1 GPU`, `0.5 GPUs`, `2 CPUs`."""
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def memory_bytes(accelerator: str | None) -> int | None:
    """Memory of one GPU; None where it is not known."""
    gib = MEMORY_GIB.get(accelerator or "")
    return None if gib is None else gib * 2**30


def of_aws_instance(instance_type: str) -> str | None:
    """The accelerator in an EC2 instance, such as "H100" for p5.4xlarge."""
    return _AWS.get(instance_type.partition(".")[0])


def is_a(accelerator: str | None, wanted: str) -> bool:
    """Whether a GPU is of the wanted type: an A100-80G is an A100."""
    return (
        accelerator is not None and re.match(rf"{re.escape(wanted)}(-|$)", accelerator) is not None
    )
