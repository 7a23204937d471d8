"""REST on the same core as gRPC.

Endpoints are ``async def endpoint(request) -> Response`` functions in plain Starlette routes. They
raise errors of our own tree, and the app answers them. They need nothing for clients that hang up:
the protocol cancels the task that serves the request.
"""
