"""The peak of activations: what a run of a model holds at once, beside its weights and its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from surgery.bodies import bound
from surgery.runtime import Buffer, Lowering, Step


def peak(model: onnx.ModelProto) -> int:
    """Bytes of activations alive at once on onnxruntime's CPU provider, at the sizes the model states.

    Dims that are open count as 1. The memory counted is what tensors hold, without what an allocator keeps
    beyond it: the arena, if it is on, was seen to keep up to three times as much.
    """
    return _most(bound(model))


def _most(model: onnx.ModelProto) -> int:
    ends = [o.name for o in model.graph.output]
    steps = Lowering(model, _most).steps
    return most_alive(steps, Memory(steps, ends))


class Memory:
    """Which buffer each tensor has, and from which step to which each buffer is held.

    A step writes over what it alone still reads, or takes a dead buffer made for the same shape; a buffer
    is given back behind its last use (onnxruntime's allocation planner).
    """

    def __init__(self, steps: Sequence[Step], ends: Sequence[str]) -> None:
        self.home: dict[str, str] = {}
        for step in steps:
            if step.view:
                self.home[step.makes[0].name] = self.of(step.view)
        self.last = {self.of(name): i for i, step in enumerate(steps) for name in _named(step)}
        self.last |= {self.of(name): len(steps) for name in ends}
        self.spans: list[tuple[int, int]] = []
        self.bytes: list[int] = []
        self._dead: list[tuple[object, int]] = []
        self._made: dict[str, tuple[int, Buffer]] = {}
        for i, step in enumerate(steps):
            if not step.view:
                for buffer in step.makes:
                    self._place(i, step, buffer)
            self._give_back(i, step)

    def of(self, name: str) -> str:
        """The tensor whose memory this one is."""
        return self.home.get(name, name)

    def _place(self, i: int, step: Step, buffer: Buffer) -> None:
        number = self._written_over(i, step, buffer)
        if number is None:
            number = self._again(buffer)
        if number is None:
            number = len(self.spans)
            self.spans.append((i, i))
            self.bytes.append(buffer.bytes)
        self._made[buffer.name] = number, buffer
        first, end = self.spans[number]
        self.spans[number] = first, max(end, self.last[buffer.name])

    def _written_over(self, i: int, step: Step, buffer: Buffer) -> int | None:
        for name in map(self.of, step.over):
            if name in self._made and self.last[name] == i:
                number = self._made[name][0]
                if self.bytes[number] == buffer.bytes:
                    return number
        return None

    def _again(self, buffer: Buffer) -> int | None:
        for entry in self._dead if buffer.key is not None else ():
            if entry[0] == buffer.key:
                self._dead.remove(entry)
                return entry[1]
        return None

    def _give_back(self, i: int, step: Step) -> None:
        for name in dict.fromkeys(self.of(n) for n in _named(step)):
            if name in self._made and self.last[name] == i:
                number, buffer = self._made[name]
                if self.spans[number][1] <= i:
                    self._dead.insert(0, (buffer.key, number))


def most_alive(steps: Sequence[Step], memory: Memory) -> int:
    """The most bytes held at once over all steps, what a step needs for itself included."""
    change = [0] * (len(steps) + 2)
    for (first, end), size in zip(memory.spans, memory.bytes, strict=True):
        change[first] += size
        change[end + 1] -= size
    held, most = 0, 0
    for step, delta in zip(steps, change, strict=False):
        held += delta
        most = max(most, held + step.scratch)
    return most


def _named(step: Step) -> list[str]:
    return [*step.reads, *(buffer.name for buffer in step.makes)]
