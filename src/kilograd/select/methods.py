"""Strategies by the names of the command line."""

from __future__ import annotations

from pathlib import Path

from kilograd.errors import InputError
from kilograd.select.fixed import bias_k, full, head, last, last_k, none
from kilograd.select.plan_file import plan_file
from kilograd.select.selection import Strategy
from kilograd.select.sparse_update import sparse_update

METHODS = (
    "none",
    "head",
    "last",
    "last:K",
    "bias:K",
    "full",
    "sparse-49kb ... sparse-148kb",
    "FILE.json",
)


def strategy(method: str) -> Strategy:
    """Return the strategy called `method`; `InputError` lists them if there is none.

    >>> strategy("last:0x")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: --method 'last:0x': unknown; known are none, head, last, last:K, \
bias:K, full, sparse-49kb ... sparse-148kb, FILE.json
    """
    if method.endswith(".json"):
        return plan_file(Path(method))
    match method.split(":"):
        case ["none"]:
            return none
        case ["head"]:
            return head
        case ["last"]:
            return last
        case ["full"]:
            return full
        case ["last", k] if k.isdecimal():
            return last_k(int(k))
        case ["bias", k] if k.isdecimal():
            return bias_k(int(k))
        case [name] if name.startswith("sparse-"):
            return sparse_update(name.removeprefix("sparse-"))
    raise InputError(f"--method {method!r}: unknown; known are {', '.join(METHODS)}")
