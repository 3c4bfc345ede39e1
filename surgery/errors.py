"""The errors a user can meet; each knows the exit code of the command line."""

from __future__ import annotations

from dataclasses import dataclass


class SurgeryError(Exception):
    """The root of every error this package raises on purpose."""

    exit_code = 1


class BadInput(SurgeryError):
    """The request or a file cannot be used as it is (exit code 2)."""

    exit_code = 2


class Refused(SurgeryError):
    """The model was understood, and has no right conversion (exit code 3).

    `node`, `op` and `why` repeat in data what the message says in words.
    """

    exit_code = 3

    def __init__(self, message: str, *, node: str = "", op: str = "", why: str = "") -> None:
        super().__init__(message)
        self.node = node
        self.op = op
        self.why = why or message


class Mismatch(SurgeryError):
    """The proof failed: the converted model does not answer as the original (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True)
class Reason:
    """One fact behind a verdict: the node, its op, and why it matters."""

    node: str
    op: str
    why: str

    def __str__(self) -> str:
        return f"{self.op} {self.node!r}: {self.why}"
