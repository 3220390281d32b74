"""Texts of others on a page."""

from __future__ import annotations

import html
import re

from kilograd.errors import shown


def escape(text: object) -> str:
    r"""Return a text as HTML, with what does not print escaped as on a terminal.

    Line breaks stay: a note may have several lines.

    >>> escape("<b>\u202e</b>")
    '&lt;b&gt;\\u202e&lt;/b&gt;'
    """
    return html.escape("\n".join(map(shown, str(text).split("\n"))))


def plain(text: str) -> str:
    r"""Write a foreign name so that Markdown takes it for text: no markup, no cell of its own.

    >>> print(plain("a|b <i>"))
    a\|b \<i>
    """
    return re.sub(r"([\\`\[<|])", r"\\\1", text)
