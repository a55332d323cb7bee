# SPDX-License-Identifier: Apache-2.0
"""A line is hypercorn's own of the same format, and the page's looks at the figures have none."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypercorn.config import Config
from hypercorn.logging import Logger

from sgl_runtime.http.access_log import AccessLog

pytestmark = pytest.mark.anyio
FORMAT = '%(h)s "%(r)s" %(s)s %(L)s s'


def scope(**other: Any) -> dict[str, Any]:
    asked = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "query_string": b"a=%20b",
        "http_version": "1.1",
        "scheme": "http",
        "client": ("127.0.0.1", 4711),
        "headers": [(b"host", b"here")],
    }
    return asked | other


async def lines(
    kind: type[Logger], request: Any, response: Any, caplog: pytest.LogCaptureFixture
) -> list[str]:
    config = Config()
    config.accesslog = logging.getLogger("access of a test")
    config.access_log_format = FORMAT
    caplog.clear()
    with caplog.at_level(logging.INFO):
        await kind(config).access(request, response, 0.0123456)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "request_",
    [
        scope(),
        scope(client=None),
        scope(client=("::1", 5)),
        scope(http_version="2", path="/v1/100%"),
        {name: value for name, value in scope(type="websocket").items() if name != "method"},
    ],
)
@pytest.mark.parametrize("response", [None, {"status": 200, "headers": []}, {"status": 503, "headers": []}])
async def test_lines_are_those_of_the_format(
    request_: Any, response: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = [await lines(kind, request_, response, caplog) for kind in (AccessLog, Logger)]
    assert ours == theirs and len(ours) == 1


async def test_the_page_is_not_heard(caplog: pytest.LogCaptureFixture) -> None:
    asked = scope(path="/server_info", headers=[(b"x-requested-with", b"page")])
    assert await lines(AccessLog, asked, None, caplog) == []
    assert len(await lines(AccessLog, scope(path="/server_info"), None, caplog)) == 1
