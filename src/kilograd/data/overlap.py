"""Classes that a network has seen before: what it is said to learn, it may only remember."""

from __future__ import annotations

import re
from collections.abc import Iterable


def shared_classes(source: Iterable[str], target: Iterable[str]) -> tuple[str, ...]:
    """Name the classes of `target` that are in `source` too, as `target` spells them.

    Names are compared without case; underscores count as spaces, groups ("photo/dog") and
    catalogue numbers ("n02099601 golden retriever", "003 canterbury bells") not at all.  A name of
    `source` may be several, with commas between: "tench, Tinca tinca".

    >>> shared_classes(["n02219486 ant", "Red_Fox"], ["photo/ant", "red fox", "Antelope"])
    ('photo/ant', 'red fox')
    """
    known = {_plain(one) for name in source for one in (name, *name.split(","))}
    return tuple(name for name in target if _plain(name) in known)


def _plain(name: str) -> str:
    name = name.rpartition("/")[2].replace("_", " ").casefold().strip()
    return re.sub(r"^n?\d+\s+(?=\S)", "", name)
