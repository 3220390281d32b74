"""Files from the network: small ones, whole, from where they are said to be."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

import kilograd
from kilograd.errors import InputError
from kilograd.progress import Progress

_QUIET = 30.0  # seconds in which nothing comes
_PATIENCE = 900.0  # seconds for all of it
_CHUNK = 1 << 16


class _SameProtocol(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to anything else: to http, to a file of this machine."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage | Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise urllib.error.URLError(f"it leads to {newurl[:200]}, by another protocol")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def fetch(url: str, most: int, progress: Progress) -> bytes:
    """Return what is at an address, at most `most` bytes; `progress` hears bytes.

    Raises `InputError`, which names the address, for an error of the network or of the server, for
    more bytes, for fewer than were announced, and where it takes too long.
    """
    agent = {"User-Agent": f"kilograd/{kilograd.__version__}"}
    request = urllib.request.Request(url, headers=agent)  # noqa: S310 of a table of ours
    opener = urllib.request.build_opener(_SameProtocol)
    begun = time.monotonic()
    data = bytearray()
    try:
        with opener.open(request, timeout=_QUIET) as answer:
            announced = int(answer.headers.get("Content-Length") or 0)
            while max(len(data), announced) <= most and (chunk := answer.read(_CHUNK)):
                data += chunk
                progress(len(data), announced or len(data), "bytes")
                if time.monotonic() > begun + _PATIENCE:
                    raise TimeoutError(f"only {len(data):,} bytes in {_PATIENCE:.0f} seconds")
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise InputError(f"{url}: cannot be fetched ({_why(e)})") from e
    if max(len(data), announced) > most:
        raise InputError(f"{url}: cannot be fetched (more than {most:,} bytes)")
    if len(data) < announced:
        raise InputError(f"{url}: cannot be fetched (it ended after {len(data):,} bytes)")
    return bytes(data)


def _why(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
