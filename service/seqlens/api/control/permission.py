"""What clients may change of a running server."""

from seqlens.errors import NotPermitted
from seqlens.settings import ServerSettings


def check_permitted(settings: ServerSettings) -> None:
    """Raise ``NotPermitted`` where the settings let clients change nothing."""
    if not settings.remote_control:
        raise NotPermitted("this server does not let clients change that (remote_control)")
