"""The call about logs."""

from dataclasses import asdict

from seqlens.api.core import Core
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

    async def LogSettings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Change what is stated, and tell all settings. Raises ``InvalidRequest``."""
        stated = {name: _read(name, value) for name, value in request.settings.items()}
        stated.pop("log_file", None)  # checked to be what it is
        if stated:
            self._switches.change(**stated)
        response = pb.LogSettingsResponse()
        for name, value in {"log_file": "", **asdict(self._switches.settings)}.items():
            setattr(response.settings[name], _CHOICES[name][0], value)
        return response


def _read(name: str, value: pb.LogSettingsRequest.SettingValue) -> bool | int | str:
    if name not in _CHOICES:
        expected = f"one of {', '.join(_CHOICES)}"
        raise InvalidRequest("settings", got=repr(name), expected=expected)
    choice, expected = _CHOICES[name]
    came = value.WhichOneof("parameter_choice")
    if came != choice:
        got = "nothing" if came is None else repr(getattr(value, came))
        raise InvalidRequest(f"settings.{name}", got=got, expected=expected)
    text: bool | int | str = getattr(value, choice)
    if name == "log_file" and text:
        raise InvalidRequest(
            "settings.log_file", got=repr(text), expected="'': logs go to standard error"
        )
    if name == "log_format" and text not in FORMATS:
        raise InvalidRequest(
            "settings.log_format", got=repr(text), expected=" or ".join(map(repr, FORMATS))
        )
    return text
