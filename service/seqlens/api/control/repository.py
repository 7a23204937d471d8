"""Calls about the repository: which models there are, loading and unloading them."""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Coroutine, Mapping

from seqlens.api.control.permission import check_permitted
from seqlens.api.core import Core
from seqlens.api.message_bounds import shown
from seqlens.errors import InvalidRequest, NotPermitted
from seqlens.repository.sent import MAX_FILES, Sent, SentFile
from seqlens.repository.triton import parse_triton_json
from seqlens_wire.pb import open_inference_pb2 as pb

Parameters = Mapping[str, pb.ModelRepositoryParameter]

FILE = "file:"


class RepositoryCalls:
    """The index, load and unload."""

    def __init__(self, core: Core) -> None:
        self._repository = core.models.repository
        self._settings = core.settings
        self._changes: set[asyncio.Task[None]] = set()

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest
    ) -> pb.RepositoryIndexResponse:
        """All models of the repository with their states, or only those that are ready."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
                )
                for entry in self._repository.index()
                if entry.state == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, or take up what has changed; answered once it serves.

        Raises ``NotPermitted``, ``InvalidRequest``, ``ModelNotFound``, ``ModelRejected``.
        """
        check_permitted(self._settings)
        name = _model_name(request)
        sent = _read_sent(request.parameters)
        if sent.files and not self._settings.accept_model_files:
            raise NotPermitted(
                "this server does not take the files of models from clients (accept_model_files)"
            )
        await self._to_the_end(self._repository.load(name, sent))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        """Serve a model no more; answered once the last of its requests is.

        ``unload_dependents`` may be asked for: no model depends on another. Raises
        ``NotPermitted``, ``ModelNotFound``.
        """
        check_permitted(self._settings)
        await self._to_the_end(self._repository.unload(_model_name(request)))
        return pb.RepositoryModelUnloadResponse()

    async def _to_the_end(self, change: Coroutine[None, None, None]) -> None:
        """Once begun it is ended, even if the caller leaves: half a load helps nobody."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)


def _model_name(
    request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest,
) -> str:
    # KServe's own protocol puts the model's name where all others have the repository's.
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidRequest("model_name", got="nothing", expected="the name of a model")
    return name


def _read_sent(parameters: Parameters) -> Sent:
    files = tuple(
        _read_file(name, value) for name, value in parameters.items() if name.startswith(FILE)
    )
    for name in parameters:
        if name != "config" and not name.startswith(FILE):
            raise InvalidRequest("parameters", got=repr(shown(name)), expected=f"config or {FILE}…")
    if files and "config" not in parameters:
        raise InvalidRequest("parameters.config", got="nothing", expected="one beside the files")
    if len(files) > MAX_FILES:
        raise InvalidRequest(
            "parameters", got=f"{len(files)} files", expected=f"at most {MAX_FILES}"
        )
    if "config" not in parameters:
        return Sent()
    value = parameters["config"]
    if value.WhichOneof("parameter_choice") != "string_param":
        raise InvalidRequest("parameters.config", got="no text", expected="a configuration in JSON")
    return Sent(parse_triton_json(value.string_param, "parameters.config"), files)


def _read_file(name: str, value: pb.ModelRepositoryParameter) -> SentFile:
    field = f"parameters.{shown(name)}"
    try:
        return SentFile(name.removeprefix(FILE), _read_data(field, value))
    except ValueError as error:
        raise InvalidRequest(
            field, got="another path", expected=str(error).removeprefix("expected ")
        ) from None


def _read_data(field: str, value: pb.ModelRepositoryParameter) -> bytes:
    """Bytes as they are over gRPC, and text in base64, which is all that JSON can hold."""
    choice = value.WhichOneof("parameter_choice")
    if choice == "bytes_param":
        return value.bytes_param
    if choice != "string_param":
        raise InvalidRequest(field, got="neither", expected="bytes, or a text in base64")
    try:
        return b64decode(value.string_param, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(field, got=str(error), expected="a text in base64") from None
