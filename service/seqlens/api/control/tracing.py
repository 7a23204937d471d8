"""The call about traces."""

from seqlens.api.control.permission import check_permitted
from seqlens.api.core import Core
from seqlens_wire.pb import open_inference_pb2 as pb


class TraceCalls:
    """Which requests are traced."""

    def __init__(self, core: Core) -> None:
        self._tracing = core.tracing
        self._settings = core.settings
        self._repository = core.models.repository

    async def TraceSetting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Change what is stated, for one model or for all, and tell all settings.

        Raises ``InvalidRequest``, ``ModelNotFound``, ``NotPermitted``.
        """
        if request.model_name:
            self._repository.check_known(request.model_name)
        if request.settings:
            check_permitted(self._settings)
            stated = {name: list(value.value) for name, value in request.settings.items()}
            self._tracing.change(stated, request.model_name)
        response = pb.TraceSettingResponse()
        for name, texts in self._tracing.settings(request.model_name).items():
            response.settings[name].value.extend(texts)
        return response
