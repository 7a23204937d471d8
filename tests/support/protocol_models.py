"""Small ONNX models for what the protocol can carry: datatypes, several outputs, large tensors."""

from pathlib import Path

import onnx
import onnx.parser

# One input, and the output that gives it back, of each datatype with a form of its own.
ECHOED = {
    "small": "int8",
    "byte": "uint8",
    "short": "int16",
    "word": "uint16",
    "long": "uint64",
    "half": "float16",
    "flag": "bool",
    "text": "string",
}

# 4,096 rows, the most that a message may have, are 60 MiB.
WIDTH = 3_840

WIDE = f"""
<ir_version: 8, opset_import: ["" : 17]>
wide (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
  y = Add(x, x)
}}
"""

# An answer for each step, and one for the sequence.
STEPS = """
<ir_version: 8, opset_import: ["" : 17]>
steps (float[batch, time, 2] x) => (float[batch, time, 2] y, float[batch, 2] total) {
  axes = Constant<value_ints = [1]>()
  y = Add(x, x)
  total = ReduceSum<keepdims = 0>(y, axes)
}
"""

# Its state comes in and goes out: the caller keeps it.
STATEFUL = """
<ir_version: 8, opset_import: ["" : 17]>
stateful (float[batch, 2] x, float[batch, 2] h_in) => (float[batch, 2] y, float[batch, 2] h_out) {
  h_out = Add(x, h_in)
  y = Add(h_out, h_out)
}
"""


def echo() -> str:
    """Each input comes back as an output with ``_back`` behind its name."""
    inputs = ", ".join(f"{kind}[batch, 2] {name}" for name, kind in ECHOED.items())
    outputs = ", ".join(f"{kind}[batch, 2] {name}_back" for name, kind in ECHOED.items())
    body = "\n".join(f"  {name}_back = Identity({name})" for name in ECHOED)
    return f"""
<ir_version: 8, opset_import: ["" : 17]>
echo ({inputs}) => ({outputs}) {{
{body}
}}
"""


def save_protocol_models(repository: Path) -> None:
    """Put ``wide``, ``steps``, ``stateful`` and ``echo`` into a repository."""
    models = {"wide": WIDE, "steps": STEPS, "stateful": STATEFUL, "echo": echo()}
    for name, text in models.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(text), version / "model.onnx")
    (repository / "steps" / "labels.txt").write_text("up\ndown\n", "utf-8")
