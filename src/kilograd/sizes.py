"""Sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from kilograd.errors import InputError, option

_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"


_LEAST = 1 << 10
"""No program needs less RAM: who gives less has forgotten the K."""


def ram_of(size: str | int, field: str) -> int:
    """Read RAM for a program, in bytes; `InputError` as `bytes_of`, and where it holds none.

    >>> ram_of("256", "sram")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: sram 256: 256 bytes hold no program; did you mean 256K?
    """
    found = bytes_of(size, field)
    if found < _LEAST:
        hint = f"did you mean {found}K?" if found else "give a size, as in 256K"
        raise InputError(f"{option(field)} {size}: {found} bytes hold no program; {hint}")
    return found


def spelled(size: int) -> str:
    """Write bytes as people give them, and in full.

    >>> spelled(65536), spelled(64000)
    ('64K (65,536 bytes)', '64,000 bytes')
    """
    return f"{size >> 10}K ({size:,} bytes)" if size and size % 1024 == 0 else f"{size:,} bytes"


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
            "the full backward pass, as in 15%; 100% is no limit"
        )
    unit = {"": Decimal(1), "k": Decimal(1000), "m": Decimal(10**6), "%": Decimal(full) / 100}
    macs = int(Decimal(match[1]) * unit[match[2].lower()])
    if macs < 1:
        raise InputError(f"{option('compute')} {work}: must be positive")
    return macs
