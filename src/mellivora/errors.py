"""Every error a user can cause, with a code, what was given, what is allowed and the next step.

    MellivoraError
    |-- SpecError         MV01xx  a chip description is wrong
    |-- ModelError        MV02xx  a model file or its contents is wrong or unsupported
    |-- GraphError        MV03xx  a graph breaks the law of the IR
    |-- CompileError      MV04xx  a model does not fit or cannot be lowered
    |-- ProgramError      MV05xx  a program file is damaged, hostile or for another chip
    |-- IsaError          MV06xx  an instruction, assembly text or check is wrong
    |-- MachineFault      MV07xx  a running program faulted (cause, pc, engine)
    |-- UsageError        MV08xx  a command or a request is wrong
    `-- HostError         MV09xx  this machine lacks something (compiler, memory, package)

The command line prints `str(error)` on stderr and exits with status 2; it never shows a traceback
for these.
"""

from __future__ import annotations


class MellivoraError(Exception):
    """Base of all errors with a code.

    code: "MV" and four digits, unique for each cause, listed in docs/errors.md.
    what: one sentence, what failed.  where: file, TOML path, node or instruction.
    given / allowed: the offending value and the range or set that would do.
    hint: the next step, an imperative sentence.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        where: str = "",
        given: str = "",
        allowed: str = "",
        hint: str = "",
    ) -> None:
        self.code, self.what, self.where = code, what, where
        self.given, self.allowed, self.hint = given, allowed, hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [f"error {self.code}: {self.what}"]
        for label, text in (
            ("where", self.where),
            ("given", self.given),
            ("allowed", self.allowed),
            ("next", self.hint),
        ):
            if text:
                lines.append(f"  {label + ':':9s}{text}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str]:
        """The same facts for `--json`."""
        keys = ("code", "what", "where", "given", "allowed", "hint")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}


class SpecError(MellivoraError): ...


class ModelError(MellivoraError): ...


class GraphError(MellivoraError): ...


class CompileError(MellivoraError): ...


class ProgramError(MellivoraError): ...


class IsaError(MellivoraError): ...


class MachineFault(MellivoraError): ...


class UsageError(MellivoraError): ...


class HostError(MellivoraError): ...
