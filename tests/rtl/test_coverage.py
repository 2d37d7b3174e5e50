"""The coverage matrix: its cells come from the table, and it counts what rows say."""

import numpy as np

from mellivora.isa import assemble, resolve
from mellivora.isa.encoding import CONTROL
from mellivora.isa.modes import BFormat, Deq, Func, Kind, Op, Store, matmul_mode, vew_fn, vew_mode
from mellivora.isa.table import TABLE
from mellivora.rtl.coverage import Coverage, summary
from mellivora.spec import load_chip

NANO = load_chip("nano")
RECIPROCAL = vew_fn(Op.MAX, func=Func.RECIP)


def covered(text: str) -> tuple[Coverage, dict[tuple[str, str, str, str], int]]:
    coverage = Coverage(NANO)
    code = assemble(text)
    coverage.add(resolve(code, [0] * 8))
    coverage.add_code(code)
    return coverage, {cell: count for cell, count in coverage.counts.items() if count}


def test_every_instruction_and_every_mode_has_cells():
    cells = Coverage(NANO).counts
    assert {cell[0] for cell in cells} == {row.name for row in TABLE} | {"fault"}
    forms = {cell[:2] for cell in cells}
    assert {("vdeq", fmt.name) for fmt in Deq} <= forms
    assert {("vquant", fmt.name) for fmt in Store} <= forms
    assert {("vew", func.name) for func in Func} <= forms
    assert {("vew", f"{op.name} c {k.name}") for op in Op if op for k in Kind} <= forms
    assert {("matmul", f"{fmt.name} 3x1 slices") for fmt in BFormat} <= forms
    assert ("matmul", "Q8_0 1x2 slices") not in forms  # no such instruction


def test_a_row_counts_in_its_forms_and_in_no_others():
    kinds = vew_mode(b=Kind.ROW, mask=True)
    _, found = covered(f"vew 0 64 64 0 4 9 {RECIPROCAL} {kinds} ?3 !4 !5\nhalt")
    sizes = {form for name, form, dimension, one in found if (dimension, one) == ("rows", "4")}
    assert sizes == {"MAX b ROW", "NONE c", "RECIP", "masked"}
    assert {one for _, _, dimension, one in found if dimension == "cols"} == {"9"}
    assert found["vew", "semaphores", "waits", "1"] == 1
    assert found["vew", "semaphores", "posts", "2"] == 1
    assert found["vew", "a in", "memory", "scratchpad"] == 1
    assert not {form for _, form, _, _ in found if form.startswith("in place")}


def test_sizes_about_a_tile():
    mode = matmul_mode(BFormat.Q4_0)
    for n, name in ((0, "none"), (1, "1"), (7, "7"), (8, "8"), (5, "prime"), (6, None)):
        _, found = covered(f"matmul 0 0 0 0 4 1 {n} {mode}\nhalt")
        cells = [one for _, form, d, one in found if (form, d) == ("Q4_0 1x1 slices", "n")]
        assert cells == ([name] if name else []), n


def test_loops_count_their_turns():
    _, found = covered("loop 3 1\nload 0 0 0 0 64 1 1 1\nhalt")
    assert found["load", "any", "n0", "64"] == 3
    assert found["loop", "operands", "CONTROL", "immediate"] == 1


def test_control_by_operands():
    _, found = covered("li r3 1\nadd r4 r3 1\nldp r5 2\nnop\nhalt")
    names = {(cell[0], cell[3]) for cell in found if BY_ENGINE[cell[0]] == CONTROL}
    assert names == {("li", "any"), ("add", "immediate"), ("add", "register"),
                     ("ldp", "immediate"), ("nop", "any"), ("halt", "any")}  # fmt: skip


BY_ENGINE = {row.name: row.engine for row in TABLE}


def test_holes_and_table():
    coverage, found = covered("msync !1\nvsync ?1\nhalt")
    assert len(coverage.holes()) == len(coverage.counts) - len(found)
    assert len(coverage.holes(2)) == len(coverage.counts)
    coverage.add_fault("VECTOR", 4)
    assert ("fault", "cause 4", "engine", "VECTOR") not in coverage.holes()
    assert "| semaphores | 0 | 1 | 0 |" in coverage.table()  # waits of VSYNC
    assert summary([coverage]).endswith("empty, least 0")


def test_rows_of_nothing():
    coverage = Coverage(NANO)
    coverage.add(np.zeros((0, 24), np.int64))
    assert len(coverage.holes()) == len(coverage.counts)
