"""Lowerings of elementwise operations, alone or in chains: what one node makes, the next one takes.

A chain is a run of nodes of one shape, each the only reader of the one before it. It goes over the
elements once; what is in between stays in the scratchpad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mellivora.compiler.generic import formulas
from mellivora.compiler.generic.elementwise import Body, Operand, elementwise
from mellivora.compiler.generic.formulas import Pen
from mellivora.compiler.generic.lowering import LOWER, Lowering, attr
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.kernel import Term, Tile
from mellivora.graph.ir import Node
from mellivora.isa.modes import Op

LONGEST = 8
ENDS_IN_RELU = ("conv", "linear")
"""Operations that a ReLU behind them is part of."""
_ZERO = "0"  # stands for the number 0 among the operands


@dataclass(frozen=True)
class Recipe:
    """A node as a body on tiles. operands: value names; dense: those that must be whole tiles."""

    operands: tuple[str, ...]
    body: Body
    spare: int = 0
    dense: tuple[int, ...] = ()
    numbers: bool = False
    """Whether single constants may come as numbers."""


Cook = Callable[[Lowering, Node], Recipe]


def _unary(low: Lowering, node: Node) -> Recipe:
    return Recipe(node.inputs, *formulas.UNARY[node.op])


def _with_numbers(low: Lowering, node: Node) -> Recipe:
    if node.op == "scale":
        return Recipe(node.inputs, formulas.one(Op.MUL, attr(node, "factor")))
    if node.op == "clip":
        body = formulas.one(Op.MAX, attr(node, "low"), Op.MIN, attr(node, "high"))
        return Recipe(node.inputs, body)
    return Recipe(node.inputs, formulas.softcap(attr(node, "cap")), 4)


def _binary(low: Lowering, node: Node) -> Recipe:
    first = low.shapes[node.inputs[0]] == low.shapes[node.outputs[0]]
    dense = (0,) if first else (1,)
    if node.op == "div":
        if low.graph.values[node.outputs[0]].dtype != "f32":
            raise low.work.no_form("div of integers", "f32", "cast to float and floor")
        return Recipe(node.inputs, formulas.divide, 1, dense, numbers=True)
    code = formulas.BINARY[node.op]

    def body(pen: Pen, dst: Tile, a: Term, b: Term) -> None:
        pen.binary(dst, a, code, b)

    return Recipe(node.inputs, body, numbers=True)


def _pow(low: Lowering, node: Node) -> Recipe:
    return Recipe(node.inputs, formulas.power, 1, (0, 1), numbers=True)


def _compare(low: Lowering, node: Node) -> Recipe:
    return Recipe(node.inputs, formulas.compare(attr(node, "kind")), 3, (0, 1))


def _where(low: Lowering, node: Node) -> Recipe:
    return Recipe(node.inputs, formulas.where, 2, (0, 1, 2), numbers=True)


def _cast(low: Lowering, node: Node) -> Recipe:
    """Floats to integers are cut towards zero; integers and booleans are numbers already."""
    source, to = low.graph.values[node.inputs[0]].dtype, attr(node, "to")
    if to == "bool" and source != "bool":
        return Recipe((*node.inputs, _ZERO), formulas.compare("ne"), 3, (0, 1))
    if source == "f32" and to in ("int32", "int64"):
        return Recipe(node.inputs, formulas.truncate, 3)
    return Recipe(node.inputs, formulas.one())


COOKS: dict[str, Cook] = {
    **dict.fromkeys(formulas.UNARY, _unary),
    **dict.fromkeys(("scale", "softcap", "clip"), _with_numbers),
    **dict.fromkeys(("add", "sub", "mul", "div", "max", "min"), _binary),
    "pow": _pow,
    "compare": _compare,
    "where": _where,
    "cast": _cast,
}


def chain_length(low: Lowering, at: int) -> int:
    """How many nodes from number `at` on are one chain; 1: none."""
    nodes, count = low.graph.nodes, 1
    while count < LONGEST and at + count < len(nodes):
        maker, reader = nodes[at + count - 1], nodes[at + count]
        made = maker.outputs[0]
        product = count == 1 and maker.op in ENDS_IN_RELU and reader.op == "relu"
        if (
            not (product or (maker.op in COOKS and reader.op in COOKS))
            or made in low.graph.outputs
            or low.readers[made] != [reader]
            or low.shapes[made] != low.shapes[reader.outputs[0]]
        ):
            break
        count += 1
        if product:
            break
    return count


def lower_chain(low: Lowering, nodes: Sequence[Node]) -> View:
    """The last node's value."""
    recipes = [COOKS[node.op](low, node) for node in nodes]
    made = {node.outputs[0] for node in nodes[:-1]}
    operands: list[Operand] = []
    dense: list[int] = []
    for recipe in recipes:
        mine = [_operand(low, recipe, name) for name in recipe.operands if name not in made]
        if len(mine) == len(recipe.operands) and not any(isinstance(m, View) for m in mine):
            mine[0] = low.view(recipe.operands[0])
        given = [i for i, name in enumerate(recipe.operands) if name not in made]
        dense += [len(operands) + at for at, index in enumerate(given) if index in recipe.dense]
        operands += mine
    spare = max(recipe.spare for recipe in recipes)
    middle = min(len(nodes) - 1, 2)

    def body(pen: Pen, dst: Tile, *terms: Term) -> None:
        given, before = iter(terms), dst
        for number, recipe in enumerate(recipes):
            last = number == len(recipes) - 1
            target = dst if last else pen.spare[spare + number % 2]
            mine = [before if name in made else next(given) for name in recipe.operands]
            recipe.body(pen, target, *mine)
            before = target

    shape = low.shapes[nodes[-1].outputs[0]]
    return elementwise(low.work, shape, operands, body, spare=spare + middle, dense=dense)


def _operand(low: Lowering, recipe: Recipe, name: str) -> Operand:
    if name == _ZERO:
        return low.zero()
    return low.operand(name) if recipe.numbers else low.view(name)


def _alone(low: Lowering, node: Node) -> Sequence[View]:
    if node.op == "cast":
        source, to = low.graph.values[node.inputs[0]].dtype, attr(node, "to")
        if to != "bool" and not (source == "f32" and to in ("int32", "int64")):
            return [low.view(node.inputs[0])]
    return [lower_chain(low, [node])]


LOWER.update(dict.fromkeys(COOKS, _alone))
