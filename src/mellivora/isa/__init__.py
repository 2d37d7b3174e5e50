"""The instruction set: one table, and what is derived from it."""

from mellivora.isa.assembler import assemble, assemble_line, disassemble, encode
from mellivora.isa.control import Sequencer, resolve, words_of
from mellivora.isa.encoding import Word, pack, unpack
from mellivora.isa.state import Core, Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE, TABLE, Instruction

__all__ = [
    "BY_NAME", "BY_OPCODE", "TABLE", "Core", "Fault", "Instruction", "Sequencer", "Word",
    "assemble", "assemble_line", "disassemble", "encode", "pack", "resolve", "unpack", "words_of",
]  # fmt: skip
