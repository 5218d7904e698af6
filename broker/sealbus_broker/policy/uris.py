"""Compares URIs that differ in writing and are the same (RFC 3986, sections 6.2.2 and 6.2.3)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_UNRESERVED = re.compile(r"%(2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])")
_OTHERS = re.compile(r"[^\x00-\x7f]+")
_ESCAPE = re.compile(r"%[0-9a-f]{2}", re.IGNORECASE)


def same_uri(one: object, other: str) -> bool:
    """Whether two values are one URI, however they are written. Only a text can be a URI."""
    return isinstance(one, str) and normal_uri(one) == normal_uri(other)


def normal_uri(uri: str) -> str:
    """``uri`` in its normal form. A text that is not a URI stays as it is.

    The form covers the case of scheme and host, the host's last dot, the default port, needless and
    missing escapes (RFC 3987), dot segments and an empty fragment.
    """
    try:
        parts = urlsplit(uri)
        host = (parts.hostname or "").lower().removesuffix(".")
        port = parts.port
    except ValueError:
        return uri
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS.get(parts.scheme):
        netloc += f":{port}"
    if "@" in parts.netloc:
        netloc = f"{parts.netloc.rpartition('@')[0]}@{netloc}"
    path = _without_dots(_plain(parts.path))
    if netloc and not path:
        path = "/"
    return SplitResult(
        parts.scheme.lower(), netloc, path, _plain(parts.query), _plain(parts.fragment)
    ).geturl()


def _plain(text: str) -> str:
    # Escapes that are missing first, so that the steps below see one form.
    text = _OTHERS.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text
    )
    shorter = _UNRESERVED.sub(lambda found: chr(int(found[1], 16)), text)
    return _ESCAPE.sub(lambda found: found[0].upper(), shorter)


def _without_dots(path: str) -> str:
    if not path.startswith("/"):
        return path
    kept: list[str] = []
    steps = path.split("/")[1:]
    for step in steps:
        if step == ".." and kept:
            kept.pop()
        elif step not in (".", ".."):
            kept.append(step)
    if steps[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
