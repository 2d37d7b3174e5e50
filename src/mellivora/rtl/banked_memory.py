"""The scratchpad and the accumulators: banks side by side, any port at any byte address.

Timing and meaning are the contract's, docs/design/0006-core-rtl.md, "Memory ports".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from mellivora.rtl.interfaces import READ_CYCLES, read_port, write_port
from mellivora.rtl.memory_model import memory_model
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.secded import CODE_BITS, decoded, encoded
from mellivora.rtl.sharing import share

EVENTS = ("corrected", "uncorrectable")
EVENT_BITS = 12
EVENT_CYCLES = READ_CYCLES + 2
"""From the address of a read to the cycle in which its flips are counted."""


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
            port, place = getattr(self, f"write_{i}"), data.write_port(granularity=byte_bits)
            m.d.comb += [place.addr.eq(port.row), place.data.eq(port.data), place.en.eq(port.mask)]
        return m


class ReadWord(wiring.Component):
    """The first `count` bytes from `byte` on of two neighbouring words, in a register.

    With ecc words are codes, and the flags of these bytes are added up in the cycle after.
    """

    def __init__(self, word_bytes: int, count: int, byte_bits: int):
        self.module_name = f"bank_read_word_{word_bytes}x{byte_bits}_{count}"
        self.count, self.byte_bits, self.ecc = count, byte_bits, byte_bits != 8
        members = {
            "low": In(byte_bits * word_bytes),
            "high": In(byte_bits * word_bytes),
            "byte": In(ceil_log2(word_bytes)),
            "enable": In(1),
            "data": Out(8 * count),
        }
        if self.ecc:
            members |= {kind: Out(range(count + 1)) for kind in EVENTS}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        data = Signal(8 * self.count, reset_less=True)
        both = Cat(self.low, self.high[: self.byte_bits * (self.count - 1)])
        picked = _moved(both, self.byte, -self.byte_bits)[: self.byte_bits * self.count]
        if self.ecc:
            codes = wire(m, picked, "codes")
            bytes_ = [decoded(m, codes.word_select(i, self.byte_bits), f"byte_{i}")
                      for i in range(self.count)]  # fmt: skip
            picked, *flags = (Cat(column) for column in zip(*bytes_))
            for kind, flag in zip(EVENTS, flags):
                flag_1 = register(m, Mux(self.enable, flag, 0), f"{kind}_flags")
                total = sum((flag_1[i] for i in range(1, self.count)), flag_1[0])
                m.d.comb += getattr(self, kind).eq(register(m, total, f"{kind}_count"))
        with m.If(self.enable):
            m.d.sync += data.eq(picked)
        m.d.comb += self.data.eq(data)
        return m


class WriteWord(wiring.Component):
    """Of two neighbouring words moved up by `byte` bytes the higher one, in a register."""

    def __init__(self, word_bytes: int, byte_bits: int):
        self.module_name = f"bank_write_word_{word_bytes}x{byte_bits}"
        self.word_bytes, self.byte_bits = word_bytes, byte_bits
        bits = 8 * word_bytes
        super().__init__(
            {f"{side}_data": In(bits) for side in ("low", "high")}
            | {f"{side}_mask": In(word_bytes) for side in ("low", "high")}
            | {"byte": In(ceil_log2(word_bytes)), "enable": In(1)}
            | {"data": Out(byte_bits * word_bytes), "mask": Out(word_bytes)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = 8 * self.word_bytes
        data = Signal(self.byte_bits * self.word_bytes, reset_less=True)
        mask = Signal(self.word_bytes, reset_less=True)
        moved = _moved(Cat(self.low_data, self.high_data), self.byte, 8)[bits : 2 * bits]
        masks = Cat(self.low_mask, self.high_mask)
        if self.byte_bits != 8:
            moved = wire(m, moved, "moved")
            moved = Cat(encoded(moved.word_select(i, 8)) for i in range(self.word_bytes))
        with m.If(self.enable):  # an idle port's registers do not move
            m.d.sync += [
                data.eq(moved),
                mask.eq((masks << self.byte)[self.word_bytes : 2 * self.word_bytes]),
            ]
        m.d.comb += [self.data.eq(data), self.mask.eq(mask)]
        return m


def _moved(words: Value, by: Value, bits: int) -> Value:
    """Shifted by so many fields of `bits` bits; down where that is negative."""
    if bits in (-8, 8):
        amount: Value = Cat(Const(0, 3), by)
    else:
        amount = by * abs(bits)
    return words >> amount if bits < 0 else words << amount


class BankedMemory(wiring.Component):
    """Byte memory of `banks` interleaved banks. Ports `read_<name>`, `write_<name>`.

    Byte a lies in bank (a / bank_bytes) % banks. An access of W bytes touches neighbours only: W /
    bank_bytes and one or two more, so a port picks those and shifts by bytes within them.
    Data of a read READ_CYCLES later, held while `enable` is low; a write is seen by a read that
    comes WRITE_CYCLES later. Addresses wrap modulo the size; if that is no power of two, those
    from the size to the next one are in no byte's place. Two writers of one byte: undefined, but
    that of `ordered` ones the last one's stays.

    reads, writes: {name: width in bytes}.
    ecc: bytes are stored as SECDED codes. `corrected` and `uncorrectable` count the bytes that
      enabled reads took, EVENT_CYCLES after their addresses. `inject` flips the bits of `mask` in
      the word of an address, with the timing of a write; nobody may write those bytes then or in
      the cycle before.
    """

    def __init__(
        self,
        size_bytes: int,
        bank_bytes: int = 32,
        *,
        banks: int,
        reads: Mapping[str, int],
        writes: Mapping[str, int],
        ecc: bool = False,
        ordered: Sequence[str] = (),
    ):
        assert bank_bytes == 1 << ceil_log2(bank_bytes), "an address is split by its bits"
        assert banks == 1 << ceil_log2(banks), "an address is split by its bits"
        for width in (*reads.values(), *writes.values()):
            assert 0 < width <= (banks - 1) * bank_bytes + 1, "a port meets a bank once"
        self.size_bytes, self.bank_bytes, self.banks = size_bytes, bank_bytes, banks
        self.reads, self.writes, self.ecc = dict(reads), dict(writes), ecc
        self.ordered = [name for name in self.writes if name in ordered]
        self.byte_bits = CODE_BITS if ecc else 8
        self.model = None if ecc else self._model
        self.depth = max(2, -(-size_bytes // (banks * bank_bytes)))
        digest = zlib.crc32(repr((bank_bytes, self.reads, self.writes, ecc, self.ordered)).encode())
        self.module_name = f"banked_memory_{self.depth}x{banks}_{digest:08x}"
        members = {f"read_{name}": In(read_port(width)) for name, width in self.reads.items()}
        members |= {f"write_{name}": In(write_port(width)) for name, width in self.writes.items()}
        if ecc:
            assert sum(self.reads.values()) < 1 << EVENT_BITS
            word = wiring.Signature(
                {"address": Out(32), "enable": Out(1), "mask": Out(bank_bytes * CODE_BITS)}
            )
            members |= {"inject": In(word)} | {kind: Out(EVENT_BITS) for kind in EVENTS}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        banks = [
            Bank(
                self.depth,
                self.bank_bytes,
                self.byte_bits,
                len(self.reads) + self.ecc,
                len(self.writes) + self.ecc,
            )
            for _ in range(self.banks)
        ]
        for k, bank in enumerate(banks):
            m.submodules[f"bank_{k}"] = share(bank)
        words: list[ReadWord] = []
        for i, (name, width) in enumerate(self.reads.items()):
            ports = [getattr(bank, f"read_{i}") for bank in banks]
            words += self._reader(m, f"read_{name}", width, ports)
        masks: dict[str, list[Signal]] = {}
        for i, (name, width) in enumerate(self.writes.items()):
            ports = [getattr(bank, f"write_{i}") for bank in banks]
            masks[name] = self._writer(m, f"write_{name}", width, ports)
        for i, name in enumerate(self.writes):
            later = self.ordered[self.ordered.index(name) + 1 :] if name in self.ordered else ()
            for k, bank in enumerate(banks):
                port, mask = getattr(bank, f"write_{i}"), Value.cast(masks[name][k])
                for other in later:
                    row = getattr(bank, f"write_{list(self.writes).index(other)}").row
                    mask = mask & ~Mux(row == port.row, masks[other][k], 0)
                m.d.comb += port.mask.eq(mask)
        if self.ecc:
            self._inject(m, banks)
            for kind in EVENTS:
                total = sum((getattr(word, kind) for word in words), Const(0))
                m.d.comb += getattr(self, kind).eq(register(m, total[:EVENT_BITS], f"{kind}_sum"))
        return m

    def _model(self) -> str:
        """What simulations put in its place."""
        return memory_model(self)

    def _inject(self, m: Module, banks: list) -> None:
        """The word is read in the cycle of the address, and written a cycle later."""
        _, bank, row, _ = self._split(m, "inject", self.inject.address)
        mask_1, row_1 = (
            register(m, self.inject.mask, "inject_mask"),
            register(m, row, "inject_row_1"),
        )
        bytes_ = Cat(mask_1.word_select(i, CODE_BITS).any() for i in range(self.bank_bytes))
        for i, place in enumerate(banks):
            reader = getattr(place, f"read_{len(self.reads)}")
            writer = getattr(place, f"write_{len(self.writes)}")
            mine = self.inject.enable & (bank == i)
            m.d.comb += [
                reader.row.eq(row),
                reader.enable.eq(mine),
                writer.row.eq(row_1),
                writer.data.eq(reader.data ^ mask_1),
                writer.mask.eq(Mux(register(m, mine, f"inject_{i}"), bytes_, 0)),
            ]

    def _ring(self, width: int) -> tuple[int, int]:
        """Banks that an access of this width can touch, and the next power of two."""
        touched = -(-(width + self.bank_bytes - 1) // self.bank_bytes)
        return touched, 1 << ceil_log2(touched)

    def _split(self, m: Module, name: str, address: Value) -> tuple[Value, Value, Value, Value]:
        """Byte in its word, first bank, row, and the row of the banks past the last one."""
        byte_bits, bank_bits = ceil_log2(self.bank_bytes), ceil_log2(self.banks)
        row_bits = ceil_log2(self.depth)
        row = address[byte_bits + bank_bits :][:row_bits]
        if self.depth != 1 << row_bits:
            row = wire(m, Mux(row < self.depth, row, 0), f"{name}_row")
        past = wire(m, Mux(row == self.depth - 1, 0, row + 1)[:row_bits], f"{name}_past")
        return address[:byte_bits], address[byte_bits : byte_bits + bank_bits], row, past

    def _meets(self, i: int, first: Value, touched: int) -> Value:
        return (Const(i, len(first)) - first)[: len(first)] < touched

    def _turned(self, m: Module, words: list, by: Value, way: int, name: str) -> list:
        """Word i at place i + way * by, modulo their number, a power of two."""
        for k in range(ceil_log2(len(words))):
            words = [
                wire(m, Mux(by[k], words[(i - way * (1 << k)) % len(words)], word), f"{name}_{k}")
                for i, word in enumerate(words)
            ]
        return words

    def _reader(self, m: Module, name: str, width: int, ports: list) -> list[ReadWord]:
        """Rows in the cycle of the address; a cycle later the banks answer, bytes are picked."""
        port, (touched, ring) = getattr(self, name), self._ring(width)
        byte, first, row, past = self._split(m, name, port.address)
        for i, bank in enumerate(ports):
            m.d.comb += [
                bank.row.eq(Mux(first > i, past, row)),
                bank.enable.eq(port.enable & self._meets(i, first, touched)),
            ]
        byte_1, first_1 = register(m, byte, f"{name}_byte"), register(m, first, f"{name}_first")
        enable_1 = register(m, port.enable, f"{name}_enable")
        words = []
        for i in range(ring):  # one of the banks i, i + ring, i + 2 ring ...
            mine = ports[i::ring]
            word = mine[0].data
            if len(mine) > 1:
                at = first[ceil_log2(ring) :] + (i < first[: ceil_log2(ring)])
                at_1 = register(m, at[: ceil_log2(len(mine))], f"{name}_at_{i}")
                word = Signal(self.byte_bits * self.bank_bytes, name=f"{name}_word_{i}")
                with m.Switch(at_1):
                    for j, bank in enumerate(mine):
                        with m.Case(j):
                            m.d.comb += word.eq(bank.data)
            words.append(word)
        words = self._turned(m, words, first_1, -1, f"{name}_turn")
        parts = []
        for i in range(0, width, self.bank_bytes):
            part = ReadWord(self.bank_bytes, min(self.bank_bytes, width - i), self.byte_bits)
            j = i // self.bank_bytes
            m.submodules[f"{name}_{j}"] = share(part)
            m.d.comb += [
                part.low.eq(words[j]),
                part.high.eq(words[(j + 1) % ring]),
                part.byte.eq(byte_1),
                part.enable.eq(enable_1),
            ]
            parts.append(part)
        m.d.comb += port.data.eq(Cat(part.data for part in parts))
        return parts

    def _writer(self, m: Module, name: str, width: int, ports: list) -> list[Signal]:
        """Bytes find their places in the cycle of the address; a cycle later banks take them.

        Gives the masks for the banks.

        Words lie in a ring: bank b takes the one at b % ring. No byte outside has its mask set, so
        what is in the rest of the ring does not matter.
        """
        port, (touched, ring) = getattr(self, name), self._ring(width)
        byte, first, row, past = self._split(m, name, port.address)
        first_1, row_1, past_1 = (
            Signal.like(value, name=f"{name}_{label}", reset_less=True)
            for value, label in ((first, "first"), (row, "row_1"), (past, "past_1"))
        )
        with m.If(port.enable):
            m.d.sync += [first_1.eq(first), row_1.eq(row), past_1.eq(past)]
        enable_1 = register(m, port.enable, f"{name}_enable")

        def words(value: Value, bits: int, label: str) -> list:
            size = self.bank_bytes * bits
            padded = Cat(value, Const(0, ring * size - len(value)))
            parts = [padded[i * size : (i + 1) * size] for i in range(ring)]
            return self._turned(m, parts, first, 1, f"{name}_{label}")

        data, mask, parts = words(port.data, 8, "turn"), words(port.mask, 1, "turn_mask"), []
        for i in range(ring):
            part = WriteWord(self.bank_bytes, self.byte_bits)
            m.submodules[f"{name}_{i}"] = share(part)
            m.d.comb += [
                part.low_data.eq(data[i - 1]),
                part.high_data.eq(data[i]),
                part.low_mask.eq(mask[i - 1]),
                part.high_mask.eq(mask[i]),
                part.byte.eq(byte),
                part.enable.eq(port.enable),
            ]
            parts.append(part)
        masks = []
        for i, bank in enumerate(ports):
            m.d.comb += [
                bank.row.eq(Mux(first_1 > i, past_1, row_1)),
                bank.data.eq(parts[i % ring].data),
            ]
            meets = enable_1 & self._meets(i, first_1, touched)
            masks.append(wire(m, Mux(meets, parts[i % ring].mask, 0), f"{name}_mask_{i}"))
        return masks
