"""The reverse conversion: each chosen Conv or AveragePool becomes one Gemm with its block matrix."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from surgery.block_matrix import BlockMatrix
from surgery.compare import Gap
from surgery.errors import BadInput, Mismatch
from surgery.fc_plan import Block, check_size, choose, guard, matrix_of
from surgery.geometry import ops_of
from surgery.graph import Builder, Op, in_order
from surgery.model import Model, ModelLike, dims_of, from_graph, read, set_metadata, to_graph
from surgery.oracle import Arrays
from surgery.probes import with_outputs
from surgery.proof import Progress, Proof, silent, tolerance_for
from surgery.report.fc import render_fc
from surgery.report.layout import by
from surgery.saving import check_target, save
from surgery.session import Session, noise
from surgery.shapes import Facts, feeds_for, observe
from surgery.version import VERSION

MAX_BYTES = 2**30
BIAS_NEEDED = 11  # before it Gemm could not leave its bias out
IMAGES = 3


@dataclass(frozen=True)
class FullyConnected:
    """What `to_fc` did: a row for each op that became a Gemm, and the proof of the whole model.

    `size` is the image size in pixels that the matrices are made for, `proto` the model, `output` the
    path it was written to. Prints as the report.
    """

    model: str
    size: tuple[int, ...]
    nodes: tuple[Block, ...]
    proof: Proof
    output: str | None = None
    proto: onnx.ModelProto | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with the keys of the command line's JSON."""
        entries = sum(prod(b.shape) for b in self.nodes)
        nonzeros = sum(b.nonzeros for b in self.nodes)
        return {
            "model": self.model,
            "size": list(self.size),
            "nodes": [b.to_dict() for b in self.nodes],
            "total": {
                "entries": entries,
                "nonzeros": nonzeros,
                "density": nonzeros / entries,
                "bytes": sum(b.bytes for b in self.nodes),
            },
            "output": self.output,
            "proof": self.proof.to_dict(),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render_fc(self.to_dict())


def to_fc(
    model: ModelLike,
    output: str | os.PathLike[str] | None = None,
    *,
    nodes: str | Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    max_bytes: int = MAX_BYTES,
    tolerance: float | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> FullyConnected:
    """Write each Conv and AveragePool of a model as what it is: a fully connected layer of one image size.

    Each becomes Flatten -> Gemm -> Reshape, with the dense block matrix as the Gemm's B (transB=1) and
    its bias given to every position; everything else stays, and the batch stays as free as it was. `nodes`
    chooses ops by the node's name (its output's, where it has none); `size` gives the image size in
    pixels per axis where the model leaves it open, and the new model is fixed to it. The new model is
    compared with the original by onnxruntime on seeded images, every replaced op's own output among the
    tensors compared; without `output` nothing is written, with it the file appears only after that proof.

    Raises BadInput (a name that is no node, a size that is not given), Refused (the matrices are larger
    than `max_bytes` together, which is known before anything is allocated; weights that depend on the
    image) or Mismatch (the proof failed).
    """
    target = None if output is None else Path(output)
    source = read(model)
    if target is not None:
        check_target(target, source.path, force=force)
    graph = to_graph(source.proto)
    chosen = choose(graph, source, [nodes] if isinstance(nodes, str) else nodes)
    is_open = check_size(source, chosen[0], size)
    facts = observe(source, None if size is None else tuple(size))
    wanted = {id(node) for node in chosen}
    ops = [op for op in ops_of(graph, source.opset, facts) if id(op.node) in wanted]
    matrices = [matrix_of(op) for op in ops]
    blocks = tuple(map(Block.of, ops, matrices))
    guard(blocks, max_bytes)
    names = [op.outputs[0] for op in ops]
    proto = rewrite(source, graph, ops, matrices, progress)
    if is_open:
        fix_dims(proto, facts)
    progress(f"proof: {IMAGES} images of {by(facts.window)}")
    proof = prove(source, facts, proto, names, tolerance_for(source.proto, tolerance))
    if target is not None:
        save(proto, target, external=source.external)
    written = None if target is None else str(target)
    return FullyConnected(source.name, facts.window, blocks, proof, written, proto)


# ------------------------------------------------------------------ the new model


def rewrite(
    source: Model, graph: gs.Graph, ops: Sequence[Op], matrices: Sequence[BlockMatrix], progress: Progress
) -> onnx.ModelProto:
    """The model with a Gemm in the place of each op, unproven."""
    build = Builder(graph, source.opset, space=len(source.image.type.tensor_type.shape.dim) - 2)
    names = [multiply(build, op, matrix) for op, matrix in zip(ops, matrices, strict=True)]
    proto = from_graph(in_order(graph.cleanup()), source.proto)
    for name, op, matrix in zip(names, ops, matrices, strict=True):
        progress(f"{op.kind} {op.name!r}: its matrix of {matrix.shape[0]} x {matrix.shape[1]}")
        proto.graph.initializer.append(numpy_helper.from_array(matrix.dense(), name))
    kept = [p for p in proto.metadata_props if not p.key.startswith("surgery.")]
    del proto.metadata_props[:]  # what an earlier conversion wrote is no longer true of this model
    proto.metadata_props.extend(kept)
    set_metadata(proto, {"surgery.version": VERSION, "surgery.source_sha256": source.sha256})
    return proto


def multiply(build: Builder, op: Op, matrix: BlockMatrix) -> str:
    """Put Flatten -> Gemm -> Reshape in the place of an op; returns the name its matrix must have.

    The output keeps its name, the batch its size. The matrix is left to be added to the finished model:
    graphsurgeon's export would copy it several times.
    """
    build.prefix = op.name
    rows, channels = matrix.shape[0], len(matrix.weight)
    features = build.emit("Flatten", [op.node.inputs[0]], {"axis": 1})
    name = build.fresh(f"{op.name}/matrix")
    operands = [features, gs.Variable(name)]
    bias = op.value(2) if op.kind == "Conv" else None
    if bias is not None:
        operands.append(build.constant("bias", np.repeat(bias, rows // channels)))
    elif build.opset < BIAS_NEEDED:
        operands.append(build.constant("bias", np.zeros(rows, matrix.weight.dtype)))
    product = build.emit("Gemm", operands, {"transB": 1})
    last = build.reshape(product, [0, channels, *matrix.out]).inputs[0]
    result = op.node.outputs[0]
    op.node.outputs.clear()
    last.outputs = [result]
    return name


def fix_dims(proto: onnx.ModelProto, facts: Facts) -> None:
    """Write the observed size into the image and the outputs, and forget the open shapes between them."""
    del proto.graph.value_info[:]
    image = [v for v in proto.graph.input if v.name == facts.image]
    for value in [*image, *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        for dim, length in list(zip(dims, facts.shapes[value.name], strict=False))[1:]:
            dim.dim_value = length


# ------------------------------------------------------------------ the proof


def prove(
    source: Model, facts: Facts, proto: onnx.ModelProto, names: Sequence[str], tolerance: float
) -> Proof:
    """Compare outputs, and the replaced ops' own, on seeded images. Raises Mismatch where they differ."""
    gap, count = Gap(), 0
    try:
        before, after = (Session(with_outputs(p, names), for_proof=True) for p in (source.proto, proto))
        for feeds in images(source, facts):
            try:
                want = before.run(feeds)
            except BadInput:
                continue  # a batch of two, where the original's body is made for one
            got = after.run(feeds)
            count += len(feeds[facts.image])
            for name, value in want.items():
                gap.add(name, got[name], value)
    except BadInput as error:
        gap.add("output", np.zeros(0), np.zeros(1))
        gap.note = str(error)
    gap.compared = list(dict.fromkeys(gap.compared))
    proof = Proof(tolerance, (gap.check("native", facts.window, count, tolerance, True),))
    if not proof.passed:
        check = proof.checks[0]
        what = check.note or f"error {check.max_error:.3g} against the tolerance {tolerance:.3g}"
        raise Mismatch(
            f"the proof failed: on {count} images of {by(facts.window)} the Gemm model and the original "
            f"differ: {what}. Nothing was written."
        )
    return proof


def images(source: Model, facts: Facts) -> Iterator[Arrays]:
    """Feeds with seeded images; where the batch is free the last has two, so that it is seen to stay free."""
    free = not isinstance(dims_of(source.image)[0], int)
    for seed in range(1, IMAGES + 1):
        shape = (2 if free and seed == IMAGES else facts.batch, *facts.shape[1:])
        feeds = feeds_for(source, source.image, shape)
        yield feeds | {facts.image: noise(shape, facts.dtype, seed)}
