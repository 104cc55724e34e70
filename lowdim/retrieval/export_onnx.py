"""The way of a vector to its coordinates and to its code as an ONNX graph, for other runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowdim.errors import require
from lowdim.retrieval.binary_code import BinaryCode
from lowdim.retrieval.codec import Codec
from lowdim.retrieval.float_codes import Float16
from lowdim.retrieval.isometry import Isometry
from lowdim.retrieval.scalar_codes import RotatedScalarCode, ScalarCode

OPSET = 18
"""Of the operators: that of 2022, which every runtime in use reads."""


def onnx_model(codec: Codec) -> Any:
    """An ONNX model of the fitted codec's transforms.

    Input ``vectors`` (n, d) float32, rows or queries as they come. Outputs:

    - ``coordinates`` (n, m) float32, what is coded of a row;
    - ``codes`` (n, bytes) uint8, bit for bit those of :meth:`Codec.encode` but where a coordinate
      is within rounding of the edge of a step; float16 numbers for ``float16``; only for int8,
      int4 (rotated or not), binary and float16;
    - ``query`` (n, r) float32, whose products with ``decoded`` rows are those of the codec.
    """
    graph = _Graph(require("onnx", "onnx"))
    map, isometry = codec.map_, Isometry.of(codec)
    x = "vectors"
    if codec.metric == "cosine":
        x = graph.unit(x)
    moved = graph.add("Sub", x, map.center)
    z = moved if map.encoder is None else graph.add("MatMul", moved, map.encoder)
    graph.give("coordinates", z, map.dims)
    query = graph.add("Add", graph.add("MatMul", x, isometry.matrix), isometry.bias)
    own = isometry.unit and isometry.spread is None  # a space of its own, compared by cosine
    graph.give("query", graph.unit(query) if own else query, isometry.dims)
    code = codec.code_
    if isinstance(code, Float16):
        largest = torch.finfo(torch.float16).max
        clipped = graph.add("Clip", z, torch.tensor(-largest), torch.tensor(largest))
        numbers = graph.add("Cast", clipped, to=graph.onnx.TensorProto.FLOAT16)
        graph.give("codes", numbers, code.dims, graph.onnx.TensorProto.FLOAT16)
    elif isinstance(code, ScalarCode):
        z = graph.add("MatMul", z, code.rotation) if isinstance(code, RotatedScalarCode) else z
        width = torch.where(code.width > 0, code.width, torch.inf)
        share = graph.add("Div", graph.add("Sub", z, code.low), width)
        clipped = graph.add("Clip", share, torch.tensor(0.0), torch.tensor(1.0))
        top = torch.tensor(2.0**code.bits - 1)
        numbers = graph.add("Floor", graph.add("Mul", clipped, top))
        graph.give("codes", graph.packed(numbers, code.dims, code.bits), code.bytes_per_vector)
    elif isinstance(code, BinaryCode):
        turned = graph.add("MatMul", z, code.rotation)
        above = graph.add("Greater", turned, (code.low + code.high) / 2)
        bits = graph.add("Cast", above, to=graph.onnx.TensorProto.FLOAT)
        graph.give("codes", graph.packed(bits, code.dims, 1), code.bytes_per_vector)
    return graph.model(codec.n_features_in_)


class _Graph:
    """Nodes, constants and outputs, as they come."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[Any] = []

    def add(self, op: str, *inputs: str | Tensor, **attributes: Any) -> str:
        """A node of names and constants; the name of what it gives."""
        names = [x if isinstance(x, str) else self.constant(x.numpy(force=True)) for x in inputs]
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, names, [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """The name of a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def unit(self, x: str) -> str:
        """Rows over their lengths."""
        length = self.add("ReduceL2", x, torch.tensor([1]), keepdims=1)
        return self.add("Div", x, self.add("Max", length, torch.tensor(1e-12)))

    def packed(self, numbers: str, count: int, bits: int) -> str:
        """Bytes of (n, count) numbers of so many bits, the first in the lowest."""
        each = 8 // bits
        if each > 1:
            if count % each:
                fill = torch.tensor([0, 0, 0, -count % each])
                numbers = self.add("Pad", numbers, fill, torch.tensor(0.0))
            groups = self.add("Reshape", numbers, torch.tensor([0, -1, each]))
            worth = torch.exp2(bits * torch.arange(each).float())[:, None]
            numbers = self.add("Squeeze", self.add("MatMul", groups, worth), torch.tensor([2]))
        return self.add("Cast", numbers, to=self.onnx.TensorProto.UINT8)

    def give(self, name: str, of: str, width: int, kind: int | None = None) -> None:
        """Name an output."""
        proto = self.onnx.TensorProto
        if kind is None:
            kind = proto.UINT8 if name == "codes" else proto.FLOAT
        self.nodes.append(self.onnx.helper.make_node("Identity", [of], [name]))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, kind, ["n", width]))

    def model(self, dim: int) -> Any:
        """The checked whole."""
        helper, proto = self.onnx.helper, self.onnx.TensorProto
        vectors = helper.make_tensor_value_info("vectors", proto.FLOAT, ["n", dim])
        graph = helper.make_graph(self.nodes, "lowdim", [vectors], self.outputs, self.constants)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], producer_name="lowdim", ir_version=8
        )
        self.onnx.checker.check_model(model, full_check=True)
        return model
