"""Net surgery for ONNX: one pass that answers for every window of an image, and the proof of it.

Everything the command line does is one call here, with the same words. The names load their modules
when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surgery.version import VERSION as __version__

if TYPE_CHECKING:
    from surgery.benchmark import Bench, bench
    from surgery.block_matrix import toeplitz
    from surgery.compare import Check
    from surgery.conv_to_fc import FullyConnected, to_fc
    from surgery.errors import BadInput, Mismatch, Reason, Refused, SurgeryError
    from surgery.field import Field, Slide
    from surgery.head import Geometry
    from surgery.net import Net
    from surgery.pipeline import convert, inspect, validate
    from surgery.proof import Proof
    from surgery.result import Result
    from surgery.scanner.average import Evaluation, evaluate
    from surgery.scanner.result import Scan, ScoreMap
    from surgery.scanner.run import Scanner, scan
    from surgery.stride import shift_and_stitch
    from surgery.transplant import Transplant

_HOMES = {
    "benchmark": ("Bench", "bench"),
    "block_matrix": ("toeplitz",),
    "compare": ("Check",),
    "conv_to_fc": ("FullyConnected", "to_fc"),
    "errors": ("BadInput", "Mismatch", "Reason", "Refused", "SurgeryError"),
    "field": ("Field", "Slide"),
    "head": ("Geometry",),
    "net": ("Net",),
    "pipeline": ("convert", "inspect", "validate"),
    "proof": ("Proof",),
    "result": ("Result",),
    "stride": ("shift_and_stitch",),
    "scanner.average": ("Evaluation", "evaluate"),
    "scanner.result": ("Scan", "ScoreMap"),
    "scanner.run": ("Scanner", "scan"),
    "transplant": ("Transplant",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadInput",
    "Bench",
    "Check",
    "Evaluation",
    "Field",
    "FullyConnected",
    "Geometry",
    "Mismatch",
    "Net",
    "Proof",
    "Reason",
    "Refused",
    "Result",
    "Scan",
    "Scanner",
    "ScoreMap",
    "Slide",
    "SurgeryError",
    "Transplant",
    "__version__",
    "bench",
    "convert",
    "evaluate",
    "inspect",
    "scan",
    "shift_and_stitch",
    "to_fc",
    "toeplitz",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    value = getattr(import_module(f"surgery.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
