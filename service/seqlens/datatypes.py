"""The datatypes of the wire and what they are in numpy."""

from collections.abc import Mapping

import numpy as np

# BF16 has no numpy type: models that take or give it do so as FP32.
NUMPY_TYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
WIRE_TYPES: Mapping[np.dtype, str] = {dtype: name for name, dtype in NUMPY_TYPES.items()}
