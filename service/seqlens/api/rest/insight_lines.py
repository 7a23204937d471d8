"""What is seen inside a model as lines of JSON, each sent as soon as it is seen."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seqlens.api.failures import answerable
from seqlens.api.off_loop import off_loop_if_large
from seqlens.api.rest.ndjson import HEADERS
from seqlens.api.rest.sequence_answers import JSON_COST, Json, to_json, write_error

Line = tuple[Json, int]  # what it tells, and the bytes of its arrays


class InsightLines(Response):
    """Lines, the last of which has an ``error`` where there should be more.

    ``held`` is what the answer keeps until its end, such as the note of its call.
    """

    def __init__(self, lines: AsyncIterator[Line], held: AsyncExitStack) -> None:
        self.background = None
        self.status_code = 200
        self.init_headers(HEADERS)
        self._lines, self._held = lines, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all lines, until they end or the client leaves."""
        last = b""
        try:
            async with self._held:
                await send({"type": "http.response.start", "status": 200,
                            "headers": self.raw_headers})  # fmt: skip
                async for told, size in self._lines:
                    line = await off_loop_if_large(JSON_COST * size, to_json, told)
                    await send({"type": "http.response.body", "body": line + b"\n",
                                "more_body": True})  # fmt: skip
        except Exception as error:
            last = to_json({"error": write_error(answerable(error))}) + b"\n"
        await send({"type": "http.response.body", "body": last})
