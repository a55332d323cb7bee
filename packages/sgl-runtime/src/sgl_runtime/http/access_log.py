# SPDX-License-Identifier: Apache-2.0
"""One line for each request, composed of what it says alone.

hypercorn's own formatter first writes down every header, of the request and the answer, and every environment
variable: a tenth of the time that a short answer costs. Knows nothing of what the requests ask for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypercorn.logging import Logger

if TYPE_CHECKING:
    from hypercorn.typing import ResponseSummary, WWWScope


class AccessLog(Logger):
    """client, request, status and seconds; for hypercorn's `Config.logger_class`."""

    async def access(self, request: WWWScope, response: ResponseSummary | None, request_time: float) -> None:
        if self.access_logger is None or _of_the_page(request):
            return
        client = request["client"]
        self.access_logger.info(
            '%s "%s %s %s" %s %.6f s',
            None if client is None else ":".join(map(str, client)),
            request["method"] if request["type"] == "http" else "GET",
            request["path"],
            request.get("http_version", "ws"),
            "-" if response is None else response["status"],
            request_time,
        )


def _of_the_page(request: WWWScope) -> bool:
    """Its look at the figures, every second: a line that nobody has caused."""
    return request["path"] == "/server_info" and (b"x-requested-with", b"page") in request["headers"]
