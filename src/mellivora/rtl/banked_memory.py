"""The scratchpad and the accumulators: banks side by side, any port at any byte address.

Timing and meaning are the contract's, docs/design/0006-core-rtl.md, "Memory ports".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from mellivora.rtl.interfaces import read_port, write_port
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.sharing import share


class Bank(wiring.Component):
    """One bank: words of bytes, with a synchronous port for every stream; a macro's place.

    Reads: the word one cycle later, held while `enable` is low; a word written in the same cycle
    is the old one. Writes: bytes whose mask bit is set.
    """

    def __init__(self, depth: int, word_bytes: int, byte_bits: int, readers: int, writers: int):
        self.module_name = f"bank_{depth}x{word_bytes}x{byte_bits}_r{readers}w{writers}"
        self.shape = (depth, word_bytes, byte_bits)
        self.readers, self.writers = readers, writers
        row, bits = ceil_log2(depth), word_bytes * byte_bits
        reader = wiring.Signature({"row": Out(row), "enable": Out(1), "data": In(bits)})
        writer = wiring.Signature({"row": Out(row), "data": Out(bits), "mask": Out(word_bytes)})
        super().__init__(
            {f"read_{i}": In(reader) for i in range(readers)}
            | {f"write_{i}": In(writer) for i in range(writers)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth, word_bytes, byte_bits = self.shape
        m.submodules.data = data = memory.Memory(shape=word_bytes * byte_bits, depth=depth, init=[])
        for i in range(self.readers):
            port, place = getattr(self, f"read_{i}"), data.read_port()
            m.d.comb += [
                place.addr.eq(port.row),
                place.en.eq(port.enable),
                port.data.eq(place.data),
            ]
        for i in range(self.writers):
            port, place = getattr(self, f"write_{i}"), data.write_port(granularity=1)
            m.d.comb += [place.addr.eq(port.row), place.data.eq(port.data)]
            with m.If(port.mask.any()):  # a simulation spreads the mask only where it must
                m.d.comb += place.en.eq(Cat(bit.replicate(byte_bits) for bit in port.mask))
        return m


class BankedMemory(wiring.Component):
    """Byte memory of `banks` interleaved banks. Ports `read_<name>`, `write_<name>`.

    Byte a lies in bank (a / bank_bytes) % banks. An access of W bytes touches neighbours only: W /
    bank_bytes and one or two more, so a port picks those and shifts by bytes within them.
    Data of a read READ_CYCLES later, held while `enable` is low; a write is seen by a read that
    comes WRITE_CYCLES later. Addresses wrap modulo the size; if that is no power of two, those
    from the size to the next one are in no byte's place. Two writers of one byte: undefined.

    reads, writes: {name: width in bytes}.
    """

    def __init__(
        self,
        size_bytes: int,
        bank_bytes: int = 32,
        *,
        banks: int,
        reads: Mapping[str, int],
        writes: Mapping[str, int],
    ):
        assert bank_bytes == 1 << ceil_log2(bank_bytes), "an address is split by its bits"
        assert banks == 1 << ceil_log2(banks), "an address is split by its bits"
        for width in (*reads.values(), *writes.values()):
            assert 0 < width <= (banks - 1) * bank_bytes + 1, "a port meets a bank once"
        self.size_bytes, self.bank_bytes, self.banks = size_bytes, bank_bytes, banks
        self.reads, self.writes = dict(reads), dict(writes)
        self.depth = max(2, -(-size_bytes // (banks * bank_bytes)))
        digest = zlib.crc32(repr((bank_bytes, self.reads, self.writes)).encode())
        self.module_name = f"banked_memory_{self.depth}x{banks}_{digest:08x}"
        super().__init__(
            {f"read_{name}": In(read_port(width)) for name, width in self.reads.items()}
            | {f"write_{name}": In(write_port(width)) for name, width in self.writes.items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        banks = [
            Bank(self.depth, self.bank_bytes, 8, len(self.reads), len(self.writes))
            for _ in range(self.banks)
        ]
        for i, bank in enumerate(banks):
            m.submodules[f"bank_{i}"] = share(bank)
        for i, (name, width) in enumerate(self.reads.items()):
            ports = [getattr(bank, f"read_{i}") for bank in banks]
            self._reader(m, f"read_{name}", width, ports)
        for i, (name, width) in enumerate(self.writes.items()):
            ports = [getattr(bank, f"write_{i}") for bank in banks]
            self._writer(m, f"write_{name}", width, ports)
        return m

    def _touched(self, width: int) -> int:
        """Banks that an access of this width can touch."""
        return -(-(width + self.bank_bytes - 1) // self.bank_bytes)

    def _split(self, m: Module, name: str, address: Value) -> tuple[Value, Value, Value, Value]:
        """Byte in the bank, first bank, row, and the row of the banks past the last one."""
        byte_bits, bank_bits = ceil_log2(self.bank_bytes), ceil_log2(self.banks)
        row_bits = ceil_log2(self.depth)
        bank = address[byte_bits : byte_bits + bank_bits]
        row = address[byte_bits + bank_bits :][:row_bits]
        if self.depth != 1 << row_bits:
            row = wire(m, Mux(row < self.depth, row, 0), f"{name}_row")
        past = wire(m, Mux(row == self.depth - 1, 0, row + 1)[:row_bits], f"{name}_past")
        return address[:byte_bits], bank, row, past

    def _reader(self, m: Module, name: str, width: int, ports: list) -> None:
        """Rows in the cycle of the address; a cycle later the banks answer, bytes are shifted."""
        port, touched = getattr(self, name), self._touched(width)
        byte, first, row, past = self._split(m, name, port.address)
        for i, bank in enumerate(ports):
            # Distance from the first bank; those past the last one are a row further.
            mine = (Const(i, len(first)) - first)[: len(first)] < touched
            m.d.comb += [
                bank.row.eq(Mux(first > i, past, row)),
                bank.enable.eq(port.enable & mine),
            ]
        first_1 = register(m, first, f"{name}_first")
        byte_1 = register(m, byte, f"{name}_byte")
        enable_1 = register(m, port.enable, f"{name}_enable")
        words = [Signal(8 * self.bank_bytes, name=f"{name}_word_{j}") for j in range(touched)]
        with m.Switch(first_1):
            for i in range(self.banks):
                with m.Case(i):
                    for j, word in enumerate(words):
                        m.d.comb += word.eq(ports[(i + j) % self.banks].data)
        with m.If(enable_1):
            shift = Cat(Const(0, 3), byte_1)
            data = Signal(8 * width, name=f"{name}_data", reset_less=True)
            m.d.sync += data.eq((Cat(words) >> shift)[: 8 * width])
        m.d.comb += port.data.eq(data)

    def _writer(self, m: Module, name: str, width: int, ports: list) -> None:
        """Bytes are shifted in the cycle of the address; a cycle later the banks take them."""
        port, touched = getattr(self, name), self._touched(width)
        byte, first, row, past = self._split(m, name, port.address)
        bits = 8 * self.bank_bytes
        window = Signal(touched * bits, name=f"{name}_window", reset_less=True)
        mask = Signal(touched * self.bank_bytes, name=f"{name}_mask")
        with m.If(port.enable):  # an idle port's registers do not move
            m.d.sync += window.eq(port.data << Cat(Const(0, 3), byte))
        m.d.sync += mask.eq(Mux(port.enable, port.mask << byte, 0))
        first_1 = register(m, first, f"{name}_first")
        row_1, past_1 = register(m, row, f"{name}_row"), register(m, past, f"{name}_past_1")
        for i, bank in enumerate(ports):
            m.d.comb += bank.row.eq(Mux(first_1 > i, past_1, row_1))
            with m.Switch(first_1):
                for j in range(touched):
                    with m.Case((i - j) % self.banks):
                        m.d.comb += [
                            bank.data.eq(window[j * bits : (j + 1) * bits]),
                            bank.mask.eq(mask.word_select(j, self.bank_bytes)),
                        ]
