"""What an op costs on onnxruntime, roughly: multiply-adds and bytes moved, in seconds of one core.

The constants were measured once by `scripts/calibrate`; only their ratios decide anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from surgery.graph import Op
from surgery.ops.pointwise import BINARY

MATRIX = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm")
FREE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape")
FUSED = ("Relu", "BatchNormalization", "Clip", "LeakyRelu")  # onnxruntime runs them inside a Conv
POOLS = ("MaxPool", "AveragePool", "LpPool")
THIN = 16  # channels of a group below which a Conv cannot fill its registers


@dataclass(frozen=True)
class Costs:
    """Seconds per multiply-add and per byte of a float tensor.

    `mac` of a Conv with many channels, `thin` of one with few inputs per group, `depthwise` of one with
    one; `byte` of a pass over memory, `pool` of a pool's input, `gather` of bringing cells into another
    order, `turn` of putting their channels last before it and back behind it, `mask` of setting borders.
    """

    mac: float = 7.7e-12
    thin: float = 1.2e-11
    depthwise: float = 3.3e-11
    byte: float = 3e-11
    pool: float = 9e-11
    gather: float = 4e-11
    turn: float = 1.5e-10
    mask: float = 2e-11

    def op(self, op: Op) -> float:
        """One run of an op on one window."""
        batch = op.facts.batch
        inside = 4 * prod(op.in_shape()) / batch
        moved = self.byte * (inside + 4 * prod(op.out_shape()) / batch) / 2
        if op.kind in FREE or op.kind in FUSED:
            return 0.0
        if op.kind in POOLS:
            return self.pool * inside
        if op.kind in MATRIX:
            return max(self.macs(op) * self.rate(op), moved)
        return moved

    def macs(self, op: Op) -> float:
        """Multiply-adds of a matrix op on one window."""
        weight = op.facts.shapes.get(op.inputs[1], ())
        out = prod(op.out_shape()) / op.facts.batch
        if op.kind in ("Conv", "FusedConv"):
            return out * prod(weight[1:])
        return out * (weight[-2] if len(weight) > 1 else 1)

    def rate(self, op: Op) -> float:
        """Seconds per multiply-add of a matrix op."""
        weight = op.facts.shapes.get(op.inputs[1], ())
        if op.kind not in ("Conv", "FusedConv") or weight[1] >= THIN:
            return self.mac
        return self.depthwise if weight[1] == 1 else self.thin

    def stage_compute(self, op: Op, behind: Sequence[Op]) -> float:
        """What one stored cell more costs in this op and those behind it, in seconds."""
        return sum(self.op(o) / prod(o.out_shape()[2:]) for o in [op, *behind] if len(o.out_shape()) > 2)

    def stage_gathers(self, ops: Sequence[Op]) -> float:
        """What it costs per stored cell to gather before every one of these ops that needs it."""
        total = 0.0
        for op in ops:
            kernel = op.attr("kernel_shape") or (1,)
            if op.kind in BINARY or max(kernel) > 1:
                shape = op.out_shape() if op.kind in BINARY else op.in_shape()  # a constant may come first
                total += self.moving(shape[1])
        return total

    def moving(self, values: float) -> float:
        """Gathering so many values, their channels turned last before and back behind."""
        return 4 * values * (self.turn + self.gather)

    def masking(self, values: float) -> float:
        """Setting the borders among so many values that are gathered."""
        return 4 * values * self.mask

    def parting(self, values: float) -> float:
        """Gathering so many values as windows, and putting each window's in one place."""
        return self.moving(values) + 4 * values * (self.gather + 2 * self.byte)

    def copying(self, values: float) -> float:
        """Slices of so many values put one behind the other: two passes."""
        return 4 * values * 2 * self.byte
