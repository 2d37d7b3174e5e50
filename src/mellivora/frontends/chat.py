"""Chat templates: Jinja programs from model files, run in a sandbox and on a budget.

A template is code by a stranger. It runs in jinja2's immutable sandbox; besides, loop steps and
calls are counted, and everything that can make a text longer is bounded: operators, filters, calls,
`~` and set blocks. A hostile template ends in a coded error and not in a hang.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from mellivora.errors import ModelError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_STEPS = 500_000  # loop steps and calls in one rendering
MAX_TEXT_CHARS = 1 << 24  # of one result, and of any number a call or a filter is given
MAX_NUMBER = 1 << 64  # of an operator's operands


class ChatTemplate:
    """A compiled template. `render` gives the prompt of a conversation.

    Raises ModelError MV0243 (does not parse) and MV0244 (fails, refuses or exceeds its budget).
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """messages: {"role": ..., "content": ...}; the conversation as the model reads it."""
        template = self._template
        template.environment.steps_left = MAX_STEPS
        try:
            return template.render(
                messages=json.loads(json.dumps(list(messages))),  # plain data, nothing to call
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        except Exception as error:  # whatever a stranger's code raises
            raise ModelError(
                "MV0244",
                "the chat template failed on these messages",
                where="chat template",
                given=f"{type(error).__name__}: {error}"[:300],
                allowed="messages the template accepts (roles, order, content as text)",
                hint="check the roles and their order, or use the model without its template",
            ) from error

    @cached_property
    def _template(self) -> Any:
        try:
            if len(self.source) > MAX_TEMPLATE_CHARS:
                raise ValueError(f"{len(self.source)} characters")
            return _environment().from_string(self.source)
        except Exception as error:
            raise ModelError(
                "MV0243",
                "the chat template cannot be compiled",
                where="chat template",
                given=f"{type(error).__name__}: {error}"[:300],
                allowed=f"a Jinja template of at most {MAX_TEMPLATE_CHARS} characters",
                hint="use the model without its template, or mend the template",
            ) from error


def _environment() -> Any:
    """Jinja as chat templates expect it: trimmed blocks, loop controls, `raise_exception`."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%", "+"))
        steps_left = MAX_STEPS

        def spend(self) -> None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise SecurityError(f"more than {MAX_STEPS} loop steps and calls")

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _bound_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, *args: Any, **kwargs: Any) -> Any:
            self.spend()
            return _bounded(super().call)(*args, **kwargs)

        def _parse(self, *args: Any) -> Any:
            tree = super()._parse(*args)
            for loop in list(tree.find_all(nodes.For)):
                loop.iter = nodes.Filter(loop.iter, "counted_", [], [], None, None)
            for block in list(tree.find_all(nodes.AssignBlock)):
                block.filter = nodes.Filter(block.filter, "string", [], [], None, None)
            for concat in list(tree.find_all(nodes.Concat)):
                parts = nodes.List(concat.nodes)
                concat.nodes = [nodes.Filter(parts, "joined_", [], [], None, None)]
            return tree

    def counted(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            environment.spend()
            yield item

    def joined(parts: list[Any]) -> str:
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MAX_TEXT_CHARS:
            raise OverflowError("the result of '~' would be too large")
        return "".join(texts)

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
        # Jinja's own filter escapes HTML characters, which models have not seen.
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = to_json
    environment.filters = {name: _bounded(f) for name, f in environment.filters.items()}
    environment.filters |= {"counted_": counted, "joined_": joined}
    return environment


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses huge numbers as arguments (widths, counts) and huge texts as results."""

    @functools.wraps(function)  # keeps the marks by which jinja2 knows what to pass
    def call(*args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > MAX_TEXT_CHARS:
                raise OverflowError(f"the argument {value} is too large")
        result = function(*args, **kwargs)
        if isinstance(result, str) and len(result) > MAX_TEXT_CHARS:
            raise OverflowError(f"a text of {len(result)} characters is too large")
        return result

    return call


def _bound_operands(operator: str, left: Any, right: Any) -> None:
    """Refuses an operation whose result could be huge, before it is worked out."""
    sizes = [len(x) for x in (left, right) if isinstance(x, str | list | tuple)]
    numbers = [abs(x) for x in (left, right) if isinstance(x, int | float)]
    too_large = any(x > MAX_NUMBER for x in numbers)
    if operator == "+":
        too_large = too_large or sum(sizes) > MAX_TEXT_CHARS
    elif operator == "*" and sizes and numbers:
        too_large = too_large or sizes[0] * numbers[0] > MAX_TEXT_CHARS
    elif operator == "**":
        too_large = too_large or any(x > 1000 for x in numbers)
    elif operator == "%" and isinstance(left, str):
        too_large = any(character.isdigit() or character == "*" for character in left)
    if too_large:
        raise OverflowError(f"the result of {operator!r} would be too large")
