"""What server and client agree on: messages, tensors as bytes, errors as metadata.

Knows neither side and needs numpy, protobuf and grpc only.
"""
