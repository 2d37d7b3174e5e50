"""Chat templates: what good ones may do, and that hostile ones end in a coded error, soon."""

from __future__ import annotations

import time

import pytest

from mellivora.errors import ModelError
from mellivora.frontends.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def render(source: str, **tokens: str) -> str:
    return ChatTemplate(source, **tokens).render(MESSAGES)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}{{ m.role[0] }}{{ m['content'] }};{% endfor %}", "uhi;aho;"),
        ("{{ bos_token }}{% if add_generation_prompt %}>{% endif %}{{ eos_token }}", "<s>></s>"),
        ("{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{% endfor %}", "0False1True"),
        ("{% for m in messages[::-1] %}{{ m.content ~ 1 }}{% break %}{% endfor %}", "ho1"),
        ("    {% if true %}\nx\n    {% endif %}\n", "x\n"),  # blocks are trimmed
        ("{{ {'a': '<b>'} | tojson }}", '{"a": "<b>"}'),
        ("{% set x %}{{ 'ab' | upper }}{% endset %}{{ x + x * 2 }}", "ABABAB"),
        ("{% macro m(t) %}[{{ t }}]{% endmacro %}{{ m('a') }}", "[a]"),
        ("{% set n = namespace(i=7) %}{% for m in messages %}{% set n.i = n.i + 1 %}{% endfor %}"
         "{{ n.i }}", "9"),
    ],
)  # fmt: skip
def test_what_templates_do(source: str, text: str) -> None:
    assert render(source, bos_token="<s>", eos_token="</s>") == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[7].content.x }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now('%Y') }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ 'a'.ljust(10000000000) }}",
        *(
            "{% set n = namespace(x='aa') %}{% for i in range(60) %}" + doubling + "{% endfor %}"
            for doubling in (
                "{% set n.x = n.x ~ n.x %}",
                "{% set n.x = n.x + n.x %}",
                "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}",
                "{% set n.x = n.x | replace('a', 'aa') %}",
            )
        ),
    ],
)
def test_hostile_or_failing_templates(source: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        render(source)
    assert caught.value.code == "MV0244"
    assert time.perf_counter() - began < 10  # milliseconds; a hang would be hours


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{", "{% include 'x' %}x{% endif %}", "x" * (1 << 21)]
)
def test_templates_that_do_not_compile(source: str) -> None:
    with pytest.raises(ModelError) as caught:
        render(source)
    assert caught.value.code == "MV0243"


def test_budget_is_for_one_rendering() -> None:
    template = ChatTemplate("{% for i in range(90000) %}{% endfor %}ok")
    assert [template.render(MESSAGES) for _ in range(8)] == ["ok"] * 8
