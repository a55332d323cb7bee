# SPDX-License-Identifier: Apache-2.0
"""URLs of servers, as users write them."""

from __future__ import annotations

from urllib.parse import urlsplit

from sgl_lang.errors import ProgramError


def check_url(url: object, *, instead: str = "api_key or default_headers") -> None:
    """Raises ProgramError for a URL that is none, or with a password in it, which clients write into logs."""
    if url is None:
        return
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ProgramError(f"base_url must begin with http:// or https://, unlike {url!r}")
    if "@" in urlsplit(url).netloc:
        raise ProgramError(f"base_url must not hold a name and password; pass {instead}")
