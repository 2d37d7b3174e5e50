"""The GGUF reader: equal to the gguf package on good files, coded errors on all others."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.unit.frontends.gguf_samples import write_small

from mellivora.errors import ModelError
from mellivora.frontends.gguf_file import GGML_TYPES, GgufFile
from mellivora.frontends.llm import load_model
from mellivora.numerics import BlockTensor, quantize

SEED = 20
CASES = 2000


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return Path(load_model("smollm2", shapes_only=True).source)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path / "small.gguf")


def code_of(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        GgufFile(path)
    assert caught.value.hint
    return caught.value.code


def test_type_table_is_the_packages() -> None:
    for number, (name, values, size) in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (name, values, size)


def test_smollm2_as_the_package_reads_it(smollm2: Path) -> None:
    ours, theirs = GgufFile(smollm2), gguf.GGUFReader(smollm2)
    assert [
        (t.name, t.type_name, t.shape[::-1], t.offset_bytes, t.size_bytes)
        for t in ours.tensors.values()
    ] == [
        (t.name, t.tensor_type.name, tuple(map(int, t.shape)), int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    ]
    for key, value in ours.metadata.items():
        wanted = theirs.fields[key].contents()
        assert (value.tolist() if isinstance(value, np.ndarray) else value) == wanted, key
    assert len(ours.metadata) == len(theirs.fields) - 3  # its fields count the header's three


def test_smollm2_values_as_the_package_dequantises_them(smollm2: Path) -> None:
    ours = GgufFile(smollm2)
    seen: set[str] = set()
    for theirs in gguf.GGUFReader(smollm2).tensors[:12]:
        tensor = ours.tensor(theirs.name)
        values = tensor.dequantize() if isinstance(tensor, BlockTensor) else tensor
        wanted = gguf.dequantize(theirs.data, theirs.tensor_type)
        np.testing.assert_array_equal(values, wanted.reshape(values.shape))
        seen.add(tensor.fmt if isinstance(tensor, BlockTensor) else str(tensor.dtype))
    assert seen == {"q8_0", "q4_1", "float32"}


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1"])
def test_each_type_that_can_be_written(name: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    values = np.random.default_rng(2).standard_normal((6, 96)).astype(np.float32)
    data = gguf.quantize(values, kind)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("x", data, raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    notes: list[str] = []
    tensor = GgufFile(tmp_path / "one.gguf").tensor("x", convert_to="x3", notes=notes)
    wanted = gguf.dequantize(data, kind)
    if isinstance(tensor, np.ndarray):
        assert tensor.dtype == (np.float16 if name == "F16" else np.float32)
        np.testing.assert_array_equal(tensor.astype(np.float32), wanted)
    elif name.startswith("Q5"):
        # Three slices have 24 bits; five-bit values times a half need 16: the conversion is exact.
        np.testing.assert_array_equal(tensor.dequantize(), wanted)
        assert notes == [f"x: {name} converted to x3 at load"]
    else:
        assert tensor.fmt == name.lower()
        np.testing.assert_array_equal(tensor.dequantize(), wanted)
        assert notes == []


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "IQ4_NL", "MXFP4"])
def test_types_without_a_block_format_are_converted(name: str, tmp_path: Path) -> None:
    """Raw blocks of random bytes below 64: every half among them is finite."""
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(4).integers(0, 64, (6, 512 // values * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()
    notes: list[str] = []
    tensor = GgufFile(tmp_path / "one.gguf").tensor("x", notes=notes)
    assert isinstance(tensor, BlockTensor)
    assert tensor.same_bits(quantize(gguf.dequantize(raw, kind), "mxint8"))
    assert notes == [f"x: {name} converted to mxint8 at load"]


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    assert code_of(tmp_path / "absent.gguf") == "MV0201"
    for content, code in (
        (b"", "MV0201"),
        (b"GG", "MV0204"),
        (b"PK\3\4" * 10, "MV0202"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "MV0203"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "MV0203"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "MV0204"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "MV0204"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + bytes(9), "MV0204"),
    ):
        (tmp_path / "x.gguf").write_bytes(content)
        assert code_of(tmp_path / "x.gguf") == code


def header(*, keys: list[bytes] = (), tensors: list[bytes] = (), data: int = 0) -> bytes:  # type: ignore[assignment]
    """A GGUF file of raw key and tensor records."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    body = head + b"".join(keys) + b"".join(tensors)
    return body + bytes(-len(body) % 32 + data)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    fields = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return text(name) + fields


U32 = struct.pack("<I", 4)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (header(keys=[text(b"k") + struct.pack("<I", 13)], data=8), "MV0205"),
        (
            header(
                keys=[text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6], data=64
            ),
            "MV0205",
        ),
        (header(keys=[text(b"k") + U32 + bytes(4)] * 2, data=8), "MV0206"),
        (header(keys=[text(b"general.alignment") + U32 + U32[::-1]], data=8), "MV0207"),
        (header(tensors=[tensor(b"t", (1,) * 5, 0, 0)], data=64), "MV0208"),
        (header(tensors=[tensor(b"t", (32,), 77, 0)], data=128), "MV0209"),
        (header(tensors=[tensor(b"t", (33,), 8, 0)], data=128), "MV0210"),
        (header(tensors=[tensor(b"t", (0, 8), 0, 0)], data=128), "MV0210"),
        (header(tensors=[tensor(b"t", (8,), 0, 4)], data=128), "MV0211"),
        (header(tensors=[tensor(b"t", (8,), 0, 0)] * 2, data=128), "MV0212"),
        (
            header(tensors=[tensor(b"t", (16,), 0, 0), tensor(b"u", (8,), 0, 32)], data=128),
            "MV0213",
        ),
        (header(keys=[text(b"\xff\xfe") + U32 + bytes(4)], data=8), "MV0214"),
        (header(tensors=[tensor(b"t", (1 << 40, 1 << 40), 0, 0)], data=128), "MV0204"),
    ],
)
def test_each_fault_has_its_code(content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    assert code_of(tmp_path / "x.gguf") == code


def test_truncation_says_what_was_expected(small: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(small.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        load_model(cut)
    size = small.stat().st_size
    assert caught.value.code == "MV0204"
    assert f"a file of {size - 100} bytes" in caught.value.given


def test_mutated_files_give_coded_errors_only(small: Path, tmp_path: Path) -> None:
    """Truncations, flipped bytes and planted huge numbers: no crash, no hang, no big allocation."""
    rng = random.Random(SEED)
    good = small.read_bytes()
    header_bytes = min(t.offset_bytes for t in GgufFile(small).tensors.values())
    path, codes = tmp_path / "bad.gguf", set[str]()
    start, slowest = time.perf_counter(), 0.0
    tracemalloc.start()
    for case in range(CASES):
        content = bytearray(good)
        if case % 4 == 0:
            del content[rng.randrange(len(good)) :]
        elif case % 4 == 1:
            at = rng.randrange(header_bytes - 8)
            content[at : at + 8] = struct.pack("<Q", rng.choice([1 << 63, 1 << 31, (1 << 64) - 1]))
        else:
            for _ in range(rng.choice([1, 1, 3])):
                content[rng.randrange(header_bytes)] = rng.randrange(256)
        path.write_bytes(content)
        began = time.perf_counter()
        try:
            load_model(path)
        except ModelError as error:
            codes.add(error.code)
        slowest = max(slowest, time.perf_counter() - began)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {code[:4] for code in codes} == {"MV02"}
    assert len(codes) > 8  # the mutations reach many different checks
    # A good file takes milliseconds and about 100 kB; the limits are for what is wrong by orders.
    assert slowest < 5.0
    assert peak_bytes < 64 << 20
    assert time.perf_counter() - start < 120
