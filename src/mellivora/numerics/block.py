"""BlockTensor: a quantised matrix, codes and scales side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.errors import IsaError
from mellivora.numerics.formats import BLOCK, E8M0_BIAS, E8M0_NAN, Format, format_of

F32 = npt.NDArray[np.float32]
AnyArray = npt.NDArray[Any]

CANONICAL_NAN = np.uint32(0x7FC00000).view(np.float32)

# [exponent + 512] -> 2^exponent in float32; 0 below 2^-149, infinity above 2^127.
_POWERS: F32 = np.array(
    [2.0**e if -149 <= e < 128 else 0.0 if e < 0 else np.inf for e in range(-512, 513)],
    dtype=np.float32,
)


def power_of_two(exponents: AnyArray) -> F32:
    """2^exponent in float32, exact from -149 to 127 (0 below, infinity above)."""
    return _POWERS[exponents.astype(np.int32) + 512]


def from_e8m0(codes: AnyArray, *, shift: int = 0) -> F32:
    """2^(code - 127 - shift) as float32, exact down to 2^-149; 255 gives the canonical NaN."""
    powers = power_of_two(codes.astype(np.int32) - (E8M0_BIAS + shift))
    return np.where(codes == E8M0_NAN, CANONICAL_NAN, powers)


@dataclass(frozen=True, eq=False, repr=False)
class BlockTensor:
    """A quantised matrix [rows, k] in one of the block formats.

    fmt: name in FORMATS.  shape: (rows, k); k is a multiple of 32 unless the format is row-scaled.
    codes: [slices, rows, k]; int8, but uint8 for lower slices' bytes and for unsigned formats.
      A format of several slices keeps them in one int8 array of *bits*: read slice j through
      `slice_codes(j)`, which gives uint8 for j > 0.
    scales: [rows, k/32] uint8 (E8M0) or float16; [rows, 1] float32 for int8, uint8, int4.
    offsets: None; q4_1: [rows, k/32] float16 minima; uint8: [rows, 1] int32 zero points.
    Raises IsaError MV0680 to MV0685 when the parts do not fit each other.
    """

    fmt: str
    shape: tuple[int, int]
    codes: AnyArray
    scales: AnyArray
    offsets: AnyArray | None = None

    def __post_init__(self) -> None:
        fmt = self.format
        if fmt.is_float:
            raise IsaError(
                "MV0688",
                "a plain floating-point format has no block codes",
                given=self.fmt,
                allowed="mxint8, x2, x3, mxfp6, mxfp4, int8, uint8, int4, q8_0, q4_0, q4_1",
                hint="Keep the tensor as an array, or quantise it to x2 or x3.",
            )
        rows, k = self.shape
        check_shape(fmt, (rows, k))
        code_dtype = np.dtype(np.int8 if fmt.signed else np.uint8)
        _expect("MV0682", "codes", self.codes, (fmt.slices, rows, k), code_dtype)
        blocks = 1 if fmt.is_row_scaled else k // BLOCK
        scale_dtype = {"e8m0": np.uint8, "f16": np.float16}.get(fmt.scale or "", np.float32)
        _expect("MV0683", "scales", self.scales, (rows, blocks), np.dtype(scale_dtype))
        if fmt.has_offset:
            wanted = np.dtype(np.int32 if fmt.is_row_scaled else np.float16)
            _expect("MV0684", "offsets", self.offsets, (rows, blocks), wanted)
        elif self.offsets is not None:
            raise IsaError(
                "MV0684",
                f"format {self.fmt} has no offsets",
                where="offsets",
                given=f"array of shape {self.offsets.shape}",
                allowed="None",
                hint="Drop the offsets, or use q4_1 or uint8.",
            )
        narrow = (fmt.code_min, fmt.code_max) not in ((-128, 127), (0, 255)) and fmt.slices == 1
        if narrow and fmt.name != "mxint8" and self.codes.size:
            low, high = int(self.codes.min()), int(self.codes.max())
            if low < fmt.code_min or high > fmt.code_max:
                raise IsaError(
                    "MV0685",
                    "codes outside the range of their format",
                    where=self.fmt,
                    given=f"{low} to {high}",
                    allowed=f"{fmt.code_min} to {fmt.code_max}",
                    hint="Unpack or quantise the codes again.",
                )

    def __repr__(self) -> str:
        return f"BlockTensor({self.fmt!r}, {self.shape})"

    @property
    def format(self) -> Format:
        return format_of(self.fmt)

    @property
    def slices(self) -> int:
        return self.format.slices

    @property
    def nbytes(self) -> int:
        """Bytes in DRAM, packed (not the bytes these arrays take in host memory)."""
        return self.format.bytes_for(*self.shape)

    def slice_codes(self, j: int) -> AnyArray:
        """Codes of slice j, [rows, k]: int8 for slice 0 (uint8 if unsigned), uint8 below."""
        return self.codes[j] if j == 0 else self.codes[j].view(np.uint8)

    def slice_scales(self, j: int) -> F32:
        """Scales of slice j as float32, [rows, k/32] ([rows, 1] if row-scaled); exact."""
        if self.format.scale != "e8m0":
            return self.scales.astype(np.float32)
        return from_e8m0(self.scales, shift=self.format.frac_bits + 8 * j)

    def integers(self) -> npt.NDArray[np.int32]:
        """All slices put together, less the zero point: int32 [rows, k]."""
        q = self.codes[0].astype(np.int32)
        for j in range(1, self.slices):
            q <<= 8
            q |= self.slice_codes(j)
        if self.format.is_row_scaled and self.offsets is not None:
            q -= self.offsets
        return q

    def dequantize(self) -> F32:
        """float32 [rows, k]; exact for e8m0 and for q8_0, q4_0; q4_1 is fl(fl(d * code) + m)."""
        rows, k = self.shape
        fmt = self.format
        scale = self.slice_scales(self.slices - 1)
        blocks = scale.shape[1]
        with np.errstate(all="ignore"):
            out = self.integers().astype(np.float32).reshape(rows, blocks, -1)
            out *= scale[:, :, None]
            if fmt.scale == "f16" and self.offsets is not None:
                out += self.offsets.astype(np.float32)[:, :, None]
        if fmt.scale != "e8m0":
            out[np.isnan(out)] = CANONICAL_NAN
        return out.reshape(rows, k)

    def same_bits(self, other: BlockTensor) -> bool:
        """True when format, shape, codes, scales and offsets are the same bytes."""
        if (self.fmt, self.shape) != (other.fmt, other.shape):
            return False
        pairs = [(self.codes, other.codes), (self.scales, other.scales)]
        if self.offsets is not None and other.offsets is not None:
            pairs.append((self.offsets, other.offsets))
        return all(a.tobytes() == b.tobytes() for a, b in pairs)

    @classmethod
    def from_ggml(cls, raw: bytes | AnyArray, fmt: str, rows: int, k: int) -> BlockTensor:
        """A tensor from GGUF's raw blocks (q8_0, q4_0, q4_1), row after row.

        raw: bytes or a uint8 array of any shape, rows * (k / 32) blocks of 34, 18 or 20 bytes.
        Raises IsaError MV0681 (k not a multiple of 32), MV0686 (length), MV0687 (format).
        """
        if fmt not in ("q8_0", "q4_0", "q4_1"):
            raise IsaError(
                "MV0687",
                "format has no raw GGUF block layout here",
                given=fmt,
                allowed="q8_0, q4_0, q4_1",
                hint="Dequantise the tensor, then quantise it to an allowed format.",
            )
        spec = format_of(fmt)
        check_shape(spec, (rows, k))
        data = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else raw
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        blocks, block_bytes = rows * (k // BLOCK), spec.bytes_per_block()
        if data.size != blocks * block_bytes:
            raise IsaError(
                "MV0686",
                "raw GGUF blocks have the wrong length",
                where=fmt,
                given=f"{data.size} bytes for [{rows}, {k}]",
                allowed=f"{blocks * block_bytes} bytes ({block_bytes} a block)",
                hint="Check the shape, or fetch the file again: it may be cut.",
            )
        data = data.reshape(blocks, block_bytes)
        head = spec.scale_bytes
        halves = np.ascontiguousarray(data[:, :head]).view(np.float16)
        scales = np.ascontiguousarray(halves[:, 0]).reshape(rows, -1)
        offsets = None
        if spec.has_offset:
            offsets = np.ascontiguousarray(halves[:, 1]).reshape(rows, -1)
        if fmt == "q8_0":
            codes = np.ascontiguousarray(data[:, head:]).view(np.int8)
        else:
            # Byte j holds element j in its low nibble and element j + 16 in its high nibble.
            nibbles = np.empty((blocks, BLOCK), np.uint8)
            np.bitwise_and(data[:, head:], 15, out=nibbles[:, :16])
            np.right_shift(data[:, head:], 4, out=nibbles[:, 16:])
            codes = nibbles
            if fmt == "q4_0":
                nibbles -= 8  # modulo 256: the int8 view below is nibble - 8
                codes = nibbles.view(np.int8)
        return cls(fmt, (rows, k), codes.reshape(1, rows, k), scales, offsets)


def check_shape(fmt: Format, shape: tuple[int, ...]) -> None:
    """Raise IsaError MV0681 unless shape is [rows, k] with k a multiple of the block."""
    if len(shape) != 2 or min(shape) < 0 or (fmt.block > 1 and shape[1] % fmt.block):
        raise IsaError(
            "MV0681",
            "shape does not divide into blocks",
            where=fmt.name,
            given=str(tuple(shape)),
            allowed=f"[rows, k], k a multiple of {max(fmt.block, 1)}",
            hint="Reshape to two dimensions and pad k with zeros.",
        )


def _expect(
    code: str, part: str, array: AnyArray | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if array is None or array.shape != shape or array.dtype != dtype:
        given = "None" if array is None else f"{array.dtype} {array.shape}"
        raise IsaError(
            code,
            f"{part} do not fit the tensor",
            where=part,
            given=given,
            allowed=f"{dtype} {shape}",
            hint=f"Build the {part} as allowed.",
        )
