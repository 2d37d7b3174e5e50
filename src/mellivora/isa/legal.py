"""Which words are instructions of a chip: opcodes, registers, semaphores, unused bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.errors import ProgramError
from mellivora.isa.encoding import (
    CONTROL,
    REGISTER_FLAG,
    REGISTERS,
    SEMAPHORES,
    SLOT_BITS,
    SLOTS,
)
from mellivora.isa.table import TABLE
from mellivora.spec import ChipSpec

_LEGAL = np.zeros(256, bool)
_OPERANDS = np.zeros(256, np.int64)
_IS_CONTROL = np.zeros(256, bool)
_HAS_RD = np.zeros(256, bool)
for _row in TABLE:
    _LEGAL[_row.opcode] = True
    _OPERANDS[_row.opcode] = 4 if _row.name == "li" else len(_row.slots)
    _IS_CONTROL[_row.opcode] = _row.engine == CONTROL
    _HAS_RD[_row.opcode] = _row.slots[:1] == ("rd",)
_LI = next(row.opcode for row in TABLE if row.name == "li")


def check_code(code: npt.NDArray[np.uint64], chip: ChipSpec, *, where: str = "code") -> None:
    """Every word is an instruction of this chip: opcode, registers, semaphores, unused bits zero.

    code: uint64 [n, 2]. Raises ProgramError MV0511 for the first word that is not, MV0523 for an
    array of another kind.
    """
    if code.dtype != np.uint64 or code.ndim != 2 or code.shape[1:] != (2,):
        raise ProgramError(
            "MV0523",
            "code is an array of another kind",
            where=where,
            given=f"{code.dtype} {list(code.shape)}",
            allowed="uint64 [n, 2]",
            hint="give what `isa.encode` or `isa.assemble` returns",
        )
    low, high = code[:, 0], code[:, 1]
    opcode = (low & np.uint64(0xFF)).astype(np.int64)
    # Slots 0 and 1 and the low 8 bits of slot 2 are in the low half; the rest in the high half.
    slots = np.empty((len(code), SLOTS), np.int64)
    mask = np.uint64(0xFFF)
    for index in range(SLOTS):
        bit = 32 + SLOT_BITS * index
        if bit + SLOT_BITS <= 64:
            part = low >> np.uint64(bit)
        elif bit < 64:
            part = low >> np.uint64(bit) | high << np.uint64(64 - bit)
        else:
            part = high >> np.uint64(bit - 64)
        slots[:, index] = (part & mask).astype(np.int64)
    registers = min(chip.scalar_registers, REGISTERS)
    semaphores = min(chip.semaphores, SEMAPHORES)
    is_register = (slots & REGISTER_FLAG) != 0
    index = np.arange(SLOTS)
    wide = (opcode == _LI)[:, None] & (index > 0)[None, :]
    bad_register = is_register & ~wide & ((slots & (REGISTER_FLAG - 1)) >= registers)
    bad_register[:, 0] |= _HAS_RD[opcode] & ~is_register[:, 0]
    unused = (slots != 0) & (index[None, :] >= _OPERANDS[opcode][:, None])
    unused[:, 3] |= (opcode == _LI) & (slots[:, 3] > 0xFF)
    links = np.stack([(low >> np.uint64(bit)).astype(np.int64) & 63 for bit in (8, 14, 20, 26)], 1)
    bad_link = (links >= semaphores) | (_IS_CONTROL[opcode][:, None] & (links != 0))
    reasons = (
        (~_LEGAL[opcode], "an opcode that no instruction has"),
        (bad_register.any(1), f"a register outside r0..r{registers - 1}"),
        (unused.any(1), "bits set in a slot that the instruction does not have"),
        (bad_link.any(1), f"a semaphore outside 0..{semaphores - 1}, or on a CONTROL instruction"),
    )
    for wrong, what in reasons:
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            word = int(high[at]) << 64 | int(low[at])
            raise ProgramError(
                "MV0511",
                f"an instruction is not legal: {what}",
                where=f"{where}, pc {at}",
                given=f".word {word:#034x}",
                allowed="the words `docs/isa` describes",
                hint="the file was not made by this version's assembler; compile the model again",
            )
