"""The ASGI application: the routes, and an answer in JSON to everything that goes wrong."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import Message, Receive, Scope, Send

from seqlens.api.control.calls import ControlCall
from seqlens.api.core import Core
from seqlens.api.failures import answerable
from seqlens.api.keys import Keys
from seqlens.api.rest import insight, open_inference, openapi, sequences
from seqlens.api.rest.answers import error_answer, error_body
from seqlens.api.rest.security import RequireKey
from seqlens.errors import Draining

# Of a path that does not exist no more than this is repeated to the client.
_SHOWN_CHARACTERS = 200


def build_app(core: Core, control: dict[str, ControlCall], keys: Keys | None = None) -> "App":
    """Everything that is served over REST."""
    described = openapi.routes(with_keys=keys is not None)
    ours = [*sequences.routes(core), *insight.routes(core)]
    return App([*open_inference.routes(core, control), *ours, *described], keys)


class App:
    """Routes requests and answers their errors.

    Starlette's own application would do the same through three layers more, each of which costs
    every request, and would log errors a second time.
    """

    def __init__(self, routes: Sequence[Route], keys: Keys | None = None) -> None:
        self.routes = tuple(routes)
        router = Router(self.routes, redirect_slashes=False).app
        self._serve = router if keys is None else RequireKey(router, keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end."""
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        scope["app"] = self  # without it the router answers what it does not know in plain text
        try:
            await self._serve(scope, receive, sending)
        except Exception as error:
            answer = self._answer(scope, error)
        except asyncio.CancelledError:
            # The time to drain is over; or the client has left, and this is not sent at all.
            answer = error_answer(Draining("the server is shutting down"))
        else:
            return
        if not begun:
            _close_where_a_body_may_follow(scope, answer)
            await answer(scope, receive, send)

    def _answer(self, scope: Scope, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            return error_answer(answerable(error))
        text, headers = error.detail, dict(error.headers or {})
        if error.status_code == HTTPStatus.NOT_FOUND:
            text = f"there is nothing at {scope['path'][:_SHOWN_CHARACTERS]}"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(sorted(self._methods(scope)))
            headers = {"allow": allowed}
            text = f"method: got {scope['method']}, expected one of {allowed}"
        return error_body({"error": text}, error.status_code, headers)

    def _methods(self, scope: Scope) -> set[str]:
        """Of all routes with the path of the request; Starlette names those of the first only."""
        found = [route for route in self.routes if route.matches(scope)[0] is not Match.NONE]
        return {method for route in found for method in route.methods or ()}


def _close_where_a_body_may_follow(scope: Scope, answer: Response) -> None:
    """A client that waits for 100 and is refused may send its body all the same, or not."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        answer.headers["connection"] = "close"
