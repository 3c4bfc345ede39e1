"""Net surgery for ONNX: one pass that answers for every window of an image, and the proof of it.

Everything the command line does is one call here, with the same words. The names load their modules
when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from surgery.version import VERSION as __version__

if TYPE_CHECKING:
    from surgery.compare import Check
    from surgery.errors import BadInput, Mismatch, Reason, Refused, SurgeryError
    from surgery.field import Field, Slide
    from surgery.head import Geometry
    from surgery.pipeline import Result, convert, inspect, validate
    from surgery.proof import Proof

_HOMES = {
    "compare": ("Check",),
    "errors": ("BadInput", "Mismatch", "Reason", "Refused", "SurgeryError"),
    "field": ("Field", "Slide"),
    "head": ("Geometry",),
    "pipeline": ("Result", "convert", "inspect", "validate"),
    "proof": ("Proof",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BadInput",
    "Check",
    "Field",
    "Geometry",
    "Mismatch",
    "Proof",
    "Reason",
    "Refused",
    "Result",
    "Slide",
    "SurgeryError",
    "__version__",
    "convert",
    "inspect",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    value = getattr(import_module(f"surgery.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
