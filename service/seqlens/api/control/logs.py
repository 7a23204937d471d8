"""The call about logs."""

from dataclasses import asdict

from seqlens.api.control.permission import check_permitted
from seqlens.api.core import Core
from seqlens.api.message_bounds import shown
from seqlens.errors import InvalidRequest
from seqlens_wire.pb import open_inference_pb2 as pb

FORMATS = ("default", "ISO8601")

# Which part of the protocol's value each setting uses, and what that is called.
_CHOICES = {
    "log_file": ("string_param", "a text"),
    "log_info": ("bool_param", "true or false"),
    "log_warning": ("bool_param", "true or false"),
    "log_error": ("bool_param", "true or false"),
    "log_verbose_level": ("uint32_param", "a number that is not negative"),
    "log_format": ("string_param", "a text"),
}


class LogCalls:
    """Which lines are logged."""

    def __init__(self, core: Core) -> None:
        self._switches = core.logs
        self._settings = core.settings

    async def LogSettings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Change what is stated, and tell all settings.

        Raises ``InvalidRequest``, ``NotPermitted``.
        """
        stated = {name: _read(name, value) for name, value in request.settings.items()}
        stated.pop("log_file", None)  # checked to be what it is
        if stated:
            check_permitted(self._settings)
            self._switches.change(**stated)
        response = pb.LogSettingsResponse()
        for name, value in {"log_file": "", **asdict(self._switches.settings)}.items():
            setattr(response.settings[name], _CHOICES[name][0], value)
        return response


def _read(name: str, value: pb.LogSettingsRequest.SettingValue) -> bool | int | str:
    if name not in _CHOICES:
        raise InvalidRequest(
            "settings", got=repr(shown(name)), expected=f"one of {', '.join(_CHOICES)}"
        )
    choice, expected = _CHOICES[name]
    came = value.WhichOneof("parameter_choice")
    if came != choice:
        raise _refusal(name, None if came is None else getattr(value, came), expected)
    stated: bool | int | str = getattr(value, choice)
    if name == "log_file" and stated:
        raise _refusal(name, stated, "'': logs go to standard error")
    if name == "log_format" and stated not in FORMATS:
        raise _refusal(name, stated, " or ".join(FORMATS))
    return stated


def _refusal(name: str, got: object, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"settings.{name}",
        got="nothing" if got is None else repr(shown(str(got))),
        expected=expected,
    )
