"""The plan of a reverse conversion: which ops become a Gemm, what their matrices hold, what is too large."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_graphsurgeon as gs

from surgery.block_matrix import BlockMatrix, average
from surgery.errors import BadInput, Refused
from surgery.graph import Op
from surgery.model import Model, dims_of
from surgery.ops.window import statement
from surgery.report.fc import share, size_text
from surgery.report.layout import by
from surgery.rules import key_of
from surgery.shapes import likely_axes, open_dims

KINDS = ("Conv", "AveragePool")
OLDEST_OPSET = 7  # before it Gemm broadcast its bias on request only, and onnxruntime has no kernel
TENSOR_BYTES = 2**31 - 1  # protobuf's own limit, for a tensor as for a file
FEW = 6  # names printed before the rest are counted


@dataclass(frozen=True)
class Block:
    """One op as a Gemm: `shape` (rows, columns) of its matrix, and what that matrix holds.

    `nonzeros` counts its entries that are not zero, `distinct` their different values; `bytes` is its size
    in memory and in the file.
    """

    node: str
    op: str
    shape: tuple[int, int]
    nonzeros: int
    distinct: int
    bytes: int

    @classmethod
    def of(cls, op: Op, matrix: BlockMatrix) -> Block:
        """What the matrix of an op will hold, counted without making it."""
        return cls(op.name, op.kind, matrix.shape, matrix.nonzeros, matrix.distinct, matrix.nbytes)

    @property
    def density(self) -> float:
        """The share of entries that are not zero."""
        return self.nonzeros / prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """The keys of the reports."""
        keys = ("node", "op", "nonzeros", "density", "distinct", "bytes")
        return {k: getattr(self, k) for k in keys} | {"shape": list(self.shape)}


# ------------------------------------------------------------------ which ops


def choose(graph: gs.Graph, source: Model, names: Sequence[str] | None) -> list[gs.Node]:
    """The nodes of these names, or all that have a matrix, in the graph's order.

    Raises BadInput where a name fits none, Refused where the model has none.
    """
    if source.opset < OLDEST_OPSET:
        raise BadInput(
            f"{source.name} is of opset {source.opset}, whose Gemm onnxruntime does not run; bring it to "
            f"opset {OLDEST_OPSET} or later first (onnx.version_converter.convert_version)."
        )
    kinds = {node_name(node): node.op for node in graph.nodes}
    able = list(dict.fromkeys(node_name(node) for node in graph.nodes if has_matrix(node)))
    if not able:
        why = f"it has no {' and no '.join(KINDS)} node"
        raise Refused(f"nothing of {source.name} can be written as a matrix: {why}.", why=why)
    for name in names or ():
        if name not in able:
            raise BadInput(_no_such(name, kinds, able, source.name))
    wanted = set(able if names is None else names)
    if not wanted:
        raise BadInput(f"no node was named; {source.name} has {_listed(able)}.")
    return [node for node in graph.nodes if has_matrix(node) and node_name(node) in wanted]


def node_name(node: gs.Node) -> str:
    """The name a node goes by: its own, or its first output's."""
    return str(node.name or node.outputs[0].name)


def has_matrix(node: gs.Node) -> bool:
    """Whether a node is of a kind that is one matrix."""
    return node.op in KINDS and not key_of(node.domain or "", "")[0]


def _no_such(name: str, kinds: dict[str, str], able: list[str], model: str) -> str:
    if name in kinds:
        return (
            f"node {name!r} is a {kinds[name]}; only {' and '.join(KINDS)} nodes can be written as a matrix. "
            f"{model} has {_listed(able)}."
        )
    near = difflib.get_close_matches(name, able, 3) or able
    return (
        f"{model} has no node {name!r}; the nearest names are {_listed(near)}. A node goes by its own name, "
        "or by its output's where it has none."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(n) for n in names[:FEW])
    return f"{shown} and {len(names) - FEW} more" if len(names) > FEW else shown


def check_size(source: Model, node: gs.Node, size: Sequence[int] | None) -> bool:
    """Whether the model leaves its image size open.

    Raises BadInput where it does and none is given, where it leaves its channels open, or where a side is
    no length.
    """
    image = source.image
    dims = dims_of(image)
    is_open = open_dims(dims)
    seen = f"{source.name}: the input {image.name!r} {list(dims)} leaves its"
    if is_open and size is None:
        raise BadInput(
            f"{seen} size open, and the matrix of {node.op} {node_name(node)!r} is made for one size. Give "
            "it with --size HxW, in pixels; the new model takes images of that size only."
        )
    if set(is_open) - set(likely_axes(dims, size)):
        raise BadInput(f"{seen} channels open; fix their number first (onnx.tools.update_model_dims).")
    if size is not None and min(size, default=1) < 1:
        raise BadInput(f"the size is {by(size)}; give a number of pixels, 1 or more, per axis.")
    return bool(is_open)


# ------------------------------------------------------------------ their matrices


def matrix_of(op: Op) -> BlockMatrix:
    """The matrix of a Conv or AveragePool at the observed size; nothing of its size is allocated.

    Raises Refused where it has no constant one.
    """
    cells, slides = op.in_shape()[2:], statement(op).slides
    if op.kind == "AveragePool":
        dtype, counts = op.facts.dtypes[op.inputs[0]], bool(op.attr("count_include_pad"))
        matrix = average(op.in_shape()[1], cells, slides, pads_count=counts, dtype=dtype)
    else:
        weight = op.value(1)
        has_bias = len(op.inputs) > 2 and bool(op.inputs[2])
        if weight is None or (has_bias and op.value(2) is None):
            raise _no_matrix(op, "its weights depend on an input of the model")
        matrix = BlockMatrix(weight, cells, slides, int(op.attr("group")))
    if matrix.out != op.out_shape()[2:]:
        seen = by(op.out_shape()[2:])
        raise _no_matrix(op, f"onnxruntime gives {seen} cells where its attributes say {by(matrix.out)}")
    if matrix.share is not None and not matrix.share.all():
        raise _no_matrix(op, "one of its windows reads no cell of the input, so its mean is 0/0")
    return matrix


def _no_matrix(op: Op, why: str) -> Refused:
    words = (
        f"cannot write {op.kind} {op.name!r} as a matrix: {why}. Leave it out: name the others with --nodes."
    )
    return Refused(words, node=op.name, op=op.kind, why=why)


def guard(blocks: Sequence[Block], max_bytes: int) -> None:
    """Raise Refused where the matrices are too large together, before any of them is allocated."""
    total = sum(b.bytes for b in blocks)
    big = max(blocks, key=lambda b: b.bytes)
    if total > max_bytes:
        limit = f"The guard is {size_text(max_bytes)}; --max-bytes raises it"
    elif big.bytes > TENSOR_BYTES:
        limit = f"One tensor of an ONNX model holds at most {size_text(TENSOR_BYTES)}"
    else:
        return
    others = f" The {len(blocks)} chosen ops need {size_text(total)} together." if len(blocks) > 1 else ""
    raise Refused(
        f"{big.op} {big.node!r} as a matrix has {big.shape[0]} rows x {big.shape[1]} columns, which is "
        f"{size_text(big.bytes)}, with {share(big.density)} of the entries not zero.{others} {limit}. "
        "Nothing was allocated or written. Choose smaller ops with --nodes, give a smaller --size where the "
        "model leaves it open, or take the sparse matrix from Python: "
        "surgery.toeplitz(weight, input_shape, strides, pads, dilations, group).",
        node=big.node,
        op=big.op,
        why=f"its matrix needs {size_text(big.bytes)}",
    )
