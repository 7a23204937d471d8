"""A user's own code under ``mypy --strict``: it passes, and types are what they should be."""

import re
import subprocess
import sys
from pathlib import Path

SNIPPET = """
from collections.abc import AsyncIterator
import numpy as np
import seqlens_client as sdk
from seqlens_client import AsyncClient, Client, tls

def calls(client: Client) -> None:
    reveal_type(client.infer("m", "a text"))  # Result
    reveal_type(client.infer("m", [1, 2]))  # Result
    reveal_type(client.infer("m", np.zeros((3, 2)), hedge_after=0.1))  # Result
    reveal_type(client.infer("m", {"ids": [1]}, priority=1, timeout=2.0))  # Result
    reveal_type(client.infer("m", [np.int64(1)]))  # Result
    reveal_type(client.infer("m", ["a", "b"]))  # list[Result]
    reveal_type(client.infer("m", [[[0.5, 1.5]]]))  # list[Result]
    reveal_type(client.infer("m", [[1], [2]], return_errors=True))  # list[Result | SeqLensError]
    reveal_type(client.stream("m", ["a"]))  # Iterator[Result]
    reveal_type(client.stream("m", ["a"], keep_order=False))  # Iterator[tuple[int, Result]]
    reveal_type(client.stream("m", ["a"], return_errors=True))  # Iterator[Result | SeqLensError]
    reveal_type(client.process_file("m", "x.jsonl", labels=True))  # FileSummary
    reveal_type(client.attention("m", "a text"))  # AttentionMap
    reveal_type(client.attention("m", ["a", "b"], last_query=True))  # list[AttentionMap]
    found = client.attention("m", ["a"], return_errors=True)
    reveal_type(found)  # list[AttentionMap | SeqLensError]
    some = client.attention("m", [1], queries=slice(2, None), dtype="uint8")
    reveal_type(some.layer(0))  # SiteMap
    reveal_type(client.attention("m", [1]).look("it", layer=-1))  # list[tuple[str, float]]
    reveal_type(client.stream_attention("m", ["a", "b"], layers=[-1]))  # Iterator[SiteMap]
    reveal_type(client.influence("m", "a", measures=["jacobian"], target=3))  # Influence
    reveal_type(client.gates("m", ["a"], full=True).layer(0).gate("forget"))  # GateReading
    reveal_type(client.models())  # list[ModelStatus]
    reveal_type(client.describe("m").limits)  # Limits | None
    reveal_type(client.statistics())  # list[ModelStatistics]
    reveal_type(client.ready())  # bool
    client.load("m")
    client.unload("m")
    result = client.infer("m", [1])
    reveal_type(result.length)  # int
    reveal_type(result.to_frame())  # DataFrame
    reveal_type(sdk.to_frame([result]))  # DataFrame
    reveal_type(sdk.to_row(result))  # dict[str, Any]

async def awaited(client: AsyncClient, source: AsyncIterator[str]) -> None:
    reveal_type(await client.infer("m", [1, 2]))  # Result
    reveal_type(await client.infer("m", [[1], [2]]))  # list[Result]
    reveal_type(await client.infer("m", ["a"], return_errors=True))  # list[Result | SeqLensError]
    reveal_type([result async for result in client.stream("m", source)])  # list[Result]
    reveal_type(await client.process_file("m", "x.jsonl"))  # FileSummary
    reveal_type(await client.attention("m", ["a"]))  # list[AttentionMap]
    reveal_type([each async for each in client.stream_attention("m", "a")])  # list[SiteMap]
    reveal_type(await client.influence("m", ["a"], by_distance=True))  # Influence
    reveal_type(await client.gates("m", "a"))  # Gates
    reveal_type(await client.statistics("m"))  # list[ModelStatistics]
    await client.load("m", timeout=120)

with Client("h:1", credentials=tls("ca.pem"), token="t", hedge_after=0.2) as client:
    try:
        calls(client)
    except sdk.Overloaded as error:
        reveal_type(error.retry_after)  # float | None
        reveal_type(error.index)  # int | None
"""

WRONG = """
from seqlens_client import Client
client = Client("h:1", tokn="t")
client.infer("m", 3)
client.infer("m", [1], priorty=1)
client.process_file("m", "x.jsonl", file_format="xml")
client.attention("m", [1], dtype="float64")
client.influence("m", [1], measures=["guess"])
"""


def check(folder: Path, code: str) -> list[str]:
    """What mypy says, line by line, without the names of modules."""
    (folder / "snippet.py").write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "snippet.py"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return run.stdout.splitlines()


def test_the_public_surface_has_the_types_that_it_promises(tmp_path: Path) -> None:
    lines = check(tmp_path, SNIPPET + WRONG)
    promised = [line.split("# ")[1] for line in SNIPPET.splitlines() if "reveal_type" in line]
    revealed = [line.split('"')[1] for line in lines if "Revealed type" in line]
    for module in ("builtins.", "typing.", "collections.abc."):
        revealed = [each.replace(module, "") for each in revealed]
    shown = ["".join(part.rpartition(".")[2] for part in split_names(each)) for each in revealed]
    assert shown == promised
    errors = [line.split("error: ")[1] for line in lines if "error: " in line]
    first_wrong = len(SNIPPET.splitlines()) + 1
    wrong = {int(line.split(":")[1]) - first_wrong for line in lines if "error: " in line}
    assert wrong == {2, 3, 4, 5, 6, 7}, errors


def split_names(text: str) -> list[str]:
    """Dotted names, and what stands between them."""
    return re.split(r"([^\w.]+)", text)
