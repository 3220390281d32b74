"""Strategies by the names of the command line."""

from __future__ import annotations

from pathlib import Path

from kilograd.errors import InputError
from kilograd.select.fixed import bias_k, full, head, last, last_k, none
from kilograd.select.plan_file import plan_file
from kilograd.select.selection import Strategy
from kilograd.select.sparse_update import sparse_update
from kilograd.select.tinytl import BLOCKS, tinytl

METHODS = (
    "none",
    "head",
    "last",
    "last:K",
    "bias:K",
    "full",
    "tinytl",
    "tinytl:K",
    "sparse-49kb ... sparse-148kb",
    "FILE.json",
)


def strategy(method: str) -> Strategy:
    """Return the strategy called `method`; `InputError` lists them if there is none.

    >>> strategy("last:0x")
    Traceback (most recent call last):
    ...
    kilograd.errors.InputError: --method 'last:0x': unknown; known are none, head, last, last:K, \
bias:K, full, tinytl, tinytl:K, sparse-49kb ... sparse-148kb, FILE.json
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
        case ["tinytl"]:
            return tinytl(BLOCKS)
        case [name, k] if k.isdecimal() and (found := _counted(name, int(k))):
            return found
        case [name] if name.startswith("sparse-"):
            return sparse_update(name.removeprefix("sparse-"))
    raise InputError(f"--method {method!r}: unknown; known are {', '.join(METHODS)}")


def _counted(name: str, k: int) -> Strategy | None:
    """Return the strategy NAME:K, if there is one."""
    match name:
        case "last":
            return last_k(k)
        case "bias":
            return bias_k(k)
        case "tinytl":
            return tinytl(k)
    return None
