"""Sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from kilograd.errors import InputError, option

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"


def bytes_of(size: str | int, field: str) -> int:
    """Read a size in bytes; `field` is the option that has it.

    >>> bytes_of("256K", "sram"), bytes_of("1.5 MiB", "sram"), bytes_of("64000", "sram")
    (262144, 1572864, 64000)
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([KkMm]?)(?:i?[Bb])?\s*", str(size))
    if not match:
        raise InputError(
            f"{option(field)} {size!r}: give bytes, or a number with K or M, as in 256K"
        )
    return int(Decimal(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2].lower()])


def macs_of(work: str | int, full: int) -> int:
    """Read a number of multiply-accumulates, or a share of a `full` backward pass.

    >>> macs_of("6.7M", 0), macs_of("500k", 0), macs_of("15%", 1000)
    (6700000, 500000, 150)
    """
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([KkMm%]?)\s*", str(work))
    if not match:
        raise InputError(
            f"{option('compute')} {work!r}: give multiply-accumulates, as in 6.7M, or a share of "
            "the full backward pass, as in 15%"
        )
    unit = {"": Decimal(1), "k": Decimal(1000), "m": Decimal(10**6), "%": Decimal(full) / 100}
    macs = int(Decimal(match[1]) * unit[match[2].lower()])
    if macs < 1:
        raise InputError(f"{option('compute')} {work}: must be positive")
    return macs
