"""Why an operator cannot be imported."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 it is no error of ours, and all of them are told at once
    """A reason, which goes on from the name of a layer: "has open shapes: convert it without"."""
