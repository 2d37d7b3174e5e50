"""Kernels that gather: embedding rows and pages of a cache are what plain LOADs of them give."""

import numpy as np
import pytest

from mellivora.compiler.emit import emit
from mellivora.compiler.hoist import hoist
from mellivora.compiler.ir import EngineOp, Region
from mellivora.compiler.kernel import Kernel, Ref, Tile
from mellivora.compiler.sync import sync
from mellivora.errors import IsaError
from mellivora.isa.check import check
from mellivora.isa.program import Window
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine
from mellivora.sim.timing import simulate
from mellivora.spec import load_chip

CHIP = load_chip("nano")
WINDOW_BYTES = 32768
WINDOWS = [Window("weights", WINDOW_BYTES, False, "weights"), Window("io", 16384, True, "io")]
TABLE = 16384
"""Place of the page tables in the first window; pages are before it."""
ROW, VOCABULARY = 192, 80  # bytes of an embedding row, a multiple of a burst
TOKENS_A_PAGE, HEAD, HEADS = 16, 64, 2  # bytes of a token's key in a head
PAGE = TOKENS_A_PAGE * HEAD * HEADS + 64  # codes of all heads, then a scale byte a token and head


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(9)


def finished(kernel: Kernel) -> np.ndarray:
    code, _ = emit(sync(hoist(kernel.items)), [("start", "control")])
    return code


def run(code: np.ndarray, dram: np.ndarray, backend: str = "native") -> tuple[np.ndarray, int]:
    """The output window and the cycles; the program is proven before."""
    rows = expand(code, [])
    check([rows], CHIP, WINDOWS)
    bases = [(0, WINDOW_BYTES), (WINDOW_BYTES, WINDOWS[1].bytes)]
    machine = Machine(CHIP, dram=dram.copy(), windows=bases, backend=backend)
    machine.load(code)
    machine.run(poison=True)
    return machine.dram[WINDOW_BYTES:], simulate([rows], CHIP).cycles


def image(rng: np.random.Generator, pages: list[int]) -> np.ndarray:
    dram = rng.integers(0, 256, WINDOW_BYTES + WINDOWS[1].bytes).astype(np.uint8)
    dram[TABLE : TABLE + 4 * len(pages)] = np.array(pages, "<i4").view(np.uint8)
    return dram


def with_table(kernel: Kernel, pages: int) -> Ref:
    table = kernel.alloc("table", 4 * pages).at()
    kernel.dma("load", table, window=0, offset=TABLE // 32, n=(4 * pages,))
    return table


def give(kernel: Kernel, *parts: tuple[Ref, int]) -> None:
    at = 0
    for ref, size in parts:
        far = Region("io", at, at + size)
        kernel.dma("store", ref, window=1, offset=at // 32, fine=at % 32, n=(size,), far=far)
        at += size


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("count", [1, 9, 64])
def test_embedding_rows(rng, count, backend):
    tokens = rng.integers(0, VOCABULARY, count).tolist()
    dram = image(rng, tokens)
    kernel = Kernel(CHIP)
    table = with_table(kernel, count)
    rows = kernel.alloc("rows", count * ROW).at()
    kernel.dma("loadx", rows, table=table, window=0, offset=0, n=(ROW, 1, 1, count),
               d=(0, 0, ROW), p=(0, 0, ROW))  # fmt: skip
    give(kernel, (rows, count * ROW))
    out, cycles = run(finished(kernel), dram, backend)

    plain = Kernel(CHIP)
    rows = plain.alloc("rows", count * ROW)
    for i, token in enumerate(tokens):
        plain.dma("load", rows.at(i * ROW), window=0, offset=token * ROW // 32, n=(ROW,))
    give(plain, (rows.at(), count * ROW))
    wanted, plain_cycles = run(finished(plain), dram, backend)
    np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(out[:ROW], dram[tokens[0] * ROW :][:ROW])
    if count == 64:  # two LOADs of a row in flight wait for DRAM; one LOADX streams
        assert cycles < plain_cycles


def test_pages_of_a_cache(rng):
    """Keys and scales of one head in two pages, as LOADs bring them from a cache in one run."""
    pages, head = [5, 2], 1
    dram = image(rng, pages)
    tokens = TOKENS_A_PAGE * len(pages)
    codes, scales = tokens * HEAD, tokens
    paged = Kernel(CHIP)
    table = with_table(paged, len(pages))
    near = [paged.alloc(name, size) for name, size in (("codes", codes), ("scales", scales))]
    at = head * TOKENS_A_PAGE * HEAD
    paged.dma("loadx", near[0].at(), table=table, window=0, offset=at // 32,
              n=(HEAD, TOKENS_A_PAGE, 1, 2), d=(HEAD, 0, PAGE),
              p=(HEAD, 0, TOKENS_A_PAGE * HEAD))  # fmt: skip
    at = HEADS * TOKENS_A_PAGE * HEAD + head * TOKENS_A_PAGE
    paged.dma("loadx", near[1].at(), table=table, window=0, offset=0, fine=at,
              n=(TOKENS_A_PAGE, 1, 1, 2), d=(0, 0, PAGE), p=(0, 0, TOKENS_A_PAGE))  # fmt: skip
    give(paged, (near[0].at(), codes), (near[1].at(), scales))
    out, _ = run(finished(paged), dram)

    run_of_all = np.concatenate([dram[page * PAGE : (page + 1) * PAGE] for page in pages])
    flat = dram.copy()
    flat[: len(run_of_all)] = run_of_all
    whole = Kernel(CHIP)
    with_table(whole, len(pages))
    near = [whole.alloc(name, size) for name, size in (("codes", codes), ("scales", scales))]
    for i in range(len(pages)):
        at = i * PAGE + head * TOKENS_A_PAGE * HEAD
        part = near[0].at(i * TOKENS_A_PAGE * HEAD)
        whole.dma("load", part, window=0, offset=at // 32, n=(TOKENS_A_PAGE * HEAD,))
        at = i * PAGE + HEADS * TOKENS_A_PAGE * HEAD + head * TOKENS_A_PAGE
        part = near[1].at(i * TOKENS_A_PAGE)
        whole.dma("load", part, window=0, offset=at // 32, fine=at % 32, n=(TOKENS_A_PAGE,))
    give(whole, (near[0].at(), codes), (near[1].at(), scales))
    wanted, _ = run(finished(whole), flat)
    np.testing.assert_array_equal(out, wanted)
    assert out[: codes + scales].any()


def test_a_table_that_vector_writes_is_waited_for(rng):
    """The pass `sync` orders the table like any source; without the token the checker objects."""
    kernel = Kernel(CHIP)
    table = with_table(kernel, 8)
    copy = kernel.alloc("copy", 32)
    rows = kernel.alloc("rows", 8 * 64).at()
    kernel.vew(Tile(copy.at()), Tile(table), rows=1, cols=8)
    kernel.dma(
        "loadx",
        rows,
        table=copy.at(),
        window=0,
        offset=0,
        n=(64, 1, 1, 8),
        d=(0, 0, 64),
        p=(0, 0, 64),
    )
    give(kernel, (rows, 512))
    pages = rng.integers(0, 200, 8).tolist()
    dram = image(rng, pages)
    out, _ = run(finished(kernel), dram)
    for i, page in enumerate(pages):
        np.testing.assert_array_equal(out[64 * i :][:64], dram[64 * page :][:64])
    items = sync(hoist(kernel.items))
    (gather,) = (op for op in items if isinstance(op, EngineOp) and op.name == "loadx")
    gather.waits.clear()
    code, _ = emit(items, [("start", "control")])
    with pytest.raises(IsaError, match="LOAD reads bytes that VECTOR may not have written"):
        check([expand(code, [])], CHIP, WINDOWS)
