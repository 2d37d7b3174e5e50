"""AXI4 and AXI4-Lite, as far as the chip uses them: the master's side.

AXI4: a data bus of one burst, INCR, one beat a transaction, one ID (no ID signals), in order.
"""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

INCR = 1
OKAY = 0


def channel(way: type[In] | type[Out], letters: str, **fields: int) -> dict[str, wiring.Member]:
    """A channel's valid, ready and fields; `way` is that of the payload."""
    back = In if way is Out else Out
    payload = {f"{letters}{name}": way(bits) for name, bits in fields.items()}
    return {f"{letters}valid": way(1), f"{letters}ready": back(1), **payload}


def axi4(address_bits: int, data_bytes: int) -> wiring.Signature:
    """A master whose every transaction is one beat of `data_bytes`."""
    request = {"addr": address_bits, "len": 8, "size": 3, "burst": 2}
    return wiring.Signature(
        {
            **channel(Out, "ar", **request),
            **channel(In, "r", data=8 * data_bytes, resp=2, last=1),
            **channel(Out, "aw", **request),
            **channel(Out, "w", data=8 * data_bytes, strb=data_bytes, last=1),
            **channel(In, "b", resp=2),
        }
    )


def axi4_lite(address_bits: int, data_bytes: int = 4) -> wiring.Signature:
    """A master of registers; data_bytes 4 or 8."""
    return wiring.Signature(
        {
            **channel(Out, "ar", addr=address_bits, prot=3),
            **channel(In, "r", data=8 * data_bytes, resp=2),
            **channel(Out, "aw", addr=address_bits, prot=3),
            **channel(Out, "w", data=8 * data_bytes, strb=data_bytes),
            **channel(In, "b", resp=2),
        }
    )


def size_code(data_bytes: int) -> int:
    """AxSIZE of a whole beat."""
    return bits_for(data_bytes) - 1
