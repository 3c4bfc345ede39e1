"""What an op costs on onnxruntime, roughly: multiply-adds and bytes moved, in seconds on two cores.

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
FUSED = ("Relu", "BatchNormalization", "Clip", "LeakyRelu")


@dataclass(frozen=True)
class Costs:
    """Seconds per multiply-add and per byte.

    `mac` of a Conv with many channels, `thin` of one with few inputs per group, `byte` of a pass over
    memory, `gather` of taking columns, `take` of taking rows.
    """

    mac: float = 4.5e-12
    thin: float = 2.2e-11
    byte: float = 6e-11
    gather: float = 3.2e-10
    take: float = 5e-11

    def op(self, op: Op) -> float:
        """One run of an op on one window."""
        batch = op.facts.batch
        out = prod(op.out_shape()) / batch
        moved = 4 * self.byte * (out + prod(op.in_shape()) / batch)
        if op.kind in FREE or op.kind in FUSED:
            return 0.0 if op.kind in FREE else 0.3 * moved
        if op.kind in MATRIX:
            return max(self.macs(op) * self.rate(op), moved)
        return moved * (2 if op.kind in ("MaxPool", "AveragePool") else 1)

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
        thin = op.kind in ("Conv", "FusedConv") and weight[1] < 16
        return self.thin if thin else self.mac

    def stage_compute(self, op: Op, behind: Sequence[Op]) -> float:
        """What one stored cell more costs in this op and those behind it, in seconds."""
        return sum(self.op(o) / prod(o.out_shape()[2:]) for o in [op, *behind] if len(o.out_shape()) > 2)

    def stage_gathers(self, ops: Sequence[Op]) -> float:
        """What it costs per stored cell to gather before every one of these ops that needs it."""
        total = 0.0
        for op in ops:
            kernel = op.attr("kernel_shape") or (1,)
            if op.kind in BINARY or max(kernel) > 1:
                total += 4 * op.in_shape()[1] * (self.gather + self.take + 2 * self.byte)
        return total

    def moving(self, values: float) -> float:
        """Gathering so many values into windows and folding them into the batch."""
        return 4 * values * (self.gather + self.take + 2 * self.byte)
