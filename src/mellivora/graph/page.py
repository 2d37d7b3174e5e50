"""docs/graph.md, made from the rows of ops.py. Run alone: python -m mellivora.graph.page"""

from __future__ import annotations

from mellivora.graph.ir import DTYPES
from mellivora.graph.ops import OPS, markdown_table

_PAGE = """# The graph

A model, whatever file it came from, is a list of nodes over named values. A value has a dtype and
a shape; a dimension is a number or a symbol such as `rows` that the inputs bind at run time.
Parameters are arrays, block-quantised tensors, or `ParamSpec`s: a format and a shape without data,
enough to compile and time a model whose weights are not there.

```python
from mellivora.graph import Builder, interpret, parse_text, to_text

b = Builder("tiny")
x = b.input("x", "f32", ("rows", 8))
y = b.op("linear", [x, b.param("w", weight)])  # weight: float32 [4, 8]
b.output(b.op("relu", [y], name="y"))
graph = b.build()  # verified
interpret(graph, {"x": data})["y"]  # NumPy float32
assert to_text(parse_text(to_text(graph))) == to_text(graph)
```

| where | what |
| --- | --- |
| `graph/ops.py` | every operation, a row each: operands, attributes, rule, reference, meaning |
| `graph/shapes.py`, `shapes_moves.py` | shape and dtype rules |
| `graph/reference.py`, `reference_windows.py` | what each operation means, in NumPy float32 |
| `graph/verify.py` | the law, with the code of each broken rule; run after every pass |
| `graph/text.py` | the text form; prints and parses back exactly, data elsewhere |
| `graph/interpret.py` | runs a graph; `precision=` replaces matrix products by a chip's |

To add an operation: a row in `ops.py`, its reference in `reference.py` (and a rule, if none of
those there fits), a case in `tests/unit/graph/test_ops.py`. To read one more ONNX operator: a
handler in `frontends/onnx_ops.py` and a case in `tests/onnx/test_onnx_ops.py`.

`mellivora.frontends.onnx.load_onnx(path_or_bytes, dims={"batch": 1})` reads opsets 7 to 28, folds
constants, shape arithmetic and batch normalisation, and keeps the model's names. An operator it
does not know is an error that names the node; nothing is skipped.

## The {count} operations

`?` marks an optional operand, `*` any number. dtypes: {dtypes}.

{table}"""


def pages() -> dict[str, str]:
    """{path in the repository: text}."""
    dtypes = " ".join(f"`{name}`" for name in DTYPES)
    text = _PAGE.replace("{count}", str(len(OPS))).replace("{dtypes}", dtypes)
    return {"docs/graph.md": text.replace("{table}", markdown_table())}


if __name__ == "__main__":
    print(*pages().values(), end="")
