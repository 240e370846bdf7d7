"""How is an ONNX graph built node by node? Exported and served towers use it."""

from typing import Any

import numpy as np
from torch import Tensor, nn

OPSET, IR = 20, 9  # The first operator set with Gelu, and the file format version of its release.


class UnsupportedTowerError(Exception):
    """The tower has a part that the graph does not support; the message names the part."""


class Graph:
    """Nodes and constants, with generated names. Errors: ImportError without the package onnx."""

    def __init__(self) -> None:
        import onnx  # noqa: PLC0415
        from onnx import helper, numpy_helper  # noqa: PLC0415

        self._onnx, self._helper, self._numpy = onnx, helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def takes(self, name: str, kind: str, *shape: int | str) -> str:
        """Declare an input and return its name.

        kind: its numpy dtype.
        shape: its sizes; a text names a size that may vary.
        """
        self.inputs.append(self._declared(name, kind, shape))
        return name

    def gives(self, name: str, kind: str, *shape: int | str) -> None:
        """Declare a name in the graph as an output, with dtype and shape as in `takes`."""
        self.outputs.append(self._declared(name, kind, shape))

    def _declared(self, name: str, kind: str, shape: tuple[int | str, ...]) -> Any:
        number = self._helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self._helper.make_tensor_value_info(name, number, shape)

    def node(self, operation: str, *inputs: Any, **attributes: Any) -> str:
        """Add an operation and return the name of its output.

        inputs: names in the graph, or constant values.
        """
        named = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        name = f"{operation}{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operation, named, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant and return its name; float64 becomes float32."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant{len(self.constants)}"
        self.constants.append(self._numpy.from_array(np.asarray(array, order="C"), name))
        return name

    def linear(self, given: str, layer: Any) -> str:
        """Add a linear layer over [B, n] and return the name of its output."""
        weight, bias = self.constant(layer.weight), self.constant(layer.bias)
        return self.node("Gemm", given, weight, bias, transB=1)

    def dense(self, given: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """Add a linear map over the last dimension, with weight [out, in] as in torch."""
        product = self.node("MatMul", given, weight.T)
        return product if bias is None else self.node("Add", product, bias)

    def perceptron(self, given: str, layers: Any) -> str:
        """Add the layers of a tower's perceptron. Errors: UnsupportedTowerError."""
        for layer in layers:
            if isinstance(layer, nn.Linear):
                given = self.dense(given, layer.weight, layer.bias)
            elif isinstance(layer, nn.GELU) and layer.approximate == "none":
                given = self.node("Gelu", given)
            elif not isinstance(layer, nn.Dropout):
                raise UnsupportedTowerError(f"a layer {type(layer).__name__}")
        return given

    def model(self, name: str) -> bytes:
        """Return the graph as the bytes of an .onnx file. name: name of the graph."""
        graph = self._helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        opset = self._helper.make_opsetid("", OPSET)
        model = self._helper.make_model(graph, opset_imports=[opset], ir_version=IR)
        content: bytes = model.SerializeToString()
        return content
