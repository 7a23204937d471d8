"""Messages of the wire benchmark, and the caller of its streams, which runs on its own core.

``python wire_clients.py HOST:PORT SECONDS`` prints how many messages were answered.
"""

import asyncio
import sys
import time

import grpc.aio
import numpy as np
import uvloop

from seqlens_wire.pb import open_inference_pb2 as oip
from seqlens_wire.pb import sequences_pb2 as pb
from seqlens_wire.pb.sequences_pb2_grpc import SequenceServiceStub
from seqlens_wire.ragged import pack

STREAMS, WINDOW = 4, 16
MODEL = "nothing"


def infer_request(tokens: list[int]) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=MODEL)
    request.inputs.add(name="tokens", datatype="INT64", shape=[1, len(tokens)])
    request.raw_input_contents.append(np.array(tokens, np.int64).tobytes())
    return request


def batch_request(rows: list[list[int]]) -> pb.ProcessBatchRequest:
    return pb.ProcessBatchRequest(model_name=MODEL, sequences=sequences(rows))


def sequences(rows: list[list[int]]) -> pb.Sequences:
    arrays = [np.array(row, np.int64) for row in rows]
    return pb.Sequences(inputs=[pack("tokens", "INT64", arrays)])


async def one_stream(stub: SequenceServiceStub, until: float) -> int:
    """Send one sequence a message, with at most WINDOW unanswered."""
    ready = sequences([list(range(1, 65))])
    call = stub.ProcessStream()
    await call.write(pb.ProcessStreamRequest(options=pb.StreamOptions(model_name=MODEL)))
    sent = answered = 0
    while answered < sent or time.perf_counter() < until:
        while sent - answered < WINDOW and time.perf_counter() < until:
            message = pb.StreamSequences(ids=[str(sent)], sequences=ready)
            await call.write(pb.ProcessStreamRequest(sequences=message))
            sent += 1
        if answered < sent:
            answer = await call.read()
            answered += len(answer.ids)
    await call.done_writing()
    return answered


async def main(address: str, seconds: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SequenceServiceStub(channel)
        until = time.perf_counter() + seconds
        print(sum(await asyncio.gather(*(one_stream(stub, until) for _ in range(STREAMS)))))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
