"""What a conversion did, or would do: as data, as text, and as labels in the model itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import onnx

from surgery.errors import Reason, Refused
from surgery.head import Geometry, Head
from surgery.lift import Row
from surgery.model import set_metadata
from surgery.proof import Proof
from surgery.report.text import render
from surgery.version import VERSION


@dataclass(frozen=True)
class Result:
    """What a conversion did, or what `inspect` says it would do.

    `proto` is the converted model (None from `inspect`), `output` the path it was written to. `notes`
    are the lines on what was changed in the trunk, or the words of the refusal. Prints as the report.
    """

    model: str
    input: dict[str, Any]
    outputs: tuple[dict[str, Any], ...]
    verdict: str
    reasons: tuple[Reason, ...]
    geometry: Geometry | None
    head: tuple[Row, ...]
    engine: str = "dense"
    output: str | None = None
    proof: Proof | None = None
    notes: tuple[str, ...] = ()
    proto: onnx.ModelProto | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, with the keys of the command line's JSON."""
        return {
            "model": self.model,
            "input": self.input,
            "outputs": list(self.outputs),
            "verdict": self.verdict,
            "reasons": [{"node": r.node, "op": r.op, "why": r.why} for r in self.reasons],
            "geometry": self.geometry.to_json() if self.geometry else None,
            "head": [{"node": r.node, "op": r.op, "becomes": r.becomes} for r in self.head],
            "engine": self.engine,
            "output": self.output,
            "proof": self.proof.to_dict() if self.proof else None,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        return render(self.to_dict())


def refuse_global(found: Head) -> Refused:
    """The refusal of a net that mixes the whole image."""
    first = found.reasons[0]
    more = f" (and {len(found.reasons) - 1} more)" if len(found.reasons) > 1 else ""
    kept = "or keep the crops' answers with the exact engine (--exact)"
    if any(r.op == "DynamicQuantizeLinear" for r in found.reasons):  # one scale for a batch of windows too
        kept = "or quantize statically (with calibration), or convert the float model"
    return Refused(
        f"verdict global: {first}{more}. In a larger image it would see the whole image in the place of the "
        "window, so the dense answers would not be the crops'. Convert all the same with --allow-global, "
        f"which measures how far they differ, {kept}.",
        node=first.node,
        op=first.op,
        why=first.why,
    )


def failure(shown: Proof) -> str:
    """The words for a proof that failed."""
    bad = next(c for c in shown.checks if c.required and not c.passed)
    size = "x".join(map(str, bad.size))
    what = bad.note or f"error {bad.max_error:.3g} against the tolerance {shown.tolerance:.3g}"
    return (
        f"the proof failed: check {bad.name!r} at {size}, {bad.positions} positions: {what}. Nothing was "
        "written. Please report the model; until then run it crop by crop."
    )


def label(
    proto: onnx.ModelProto,
    result: Result,
    sha256: str,
    reduce: str | None,
    fragments: tuple[int, ...],
    reading: tuple[str, ...],
) -> None:
    """Write into the model what it is and where it comes from."""
    assert result.geometry is not None
    entries = {
        "surgery.version": VERSION,
        "surgery.engine": result.engine,
        "surgery.verdict": result.verdict,
        "surgery.geometry": json.dumps(result.geometry.to_json()),
        "surgery.source_sha256": sha256,
    }
    if reduce:
        entries["surgery.reduce"] = reduce
    if fragments:
        entries["surgery.fragments"] = json.dumps(fragments)
    if reading:
        entries["surgery.reading"] = json.dumps(reading)
    set_metadata(proto, entries)
