"""CXXRTL code in which long concatenations are put together in one pass.

`a.concat(b).concat(c)...` shifts all that it has for each further piece: 31 times 288 bits for what
the columns of MATRIX get, for each of them, whenever anything in MATRIX changes. Here the pieces
are handed to one function, which puts each in its place.
"""

from __future__ import annotations

JOIN = """
template<size_t Bits>
void mellivora_put(cxxrtl::chunk_t* words, size_t at, const cxxrtl::value<Bits>& piece) {
    constexpr size_t chunks = cxxrtl::value<Bits>::chunks;
    for (size_t k = 0; k < chunks; k++) {
        const size_t bits = k + 1 < chunks ? 32 : Bits - 32 * k;
        words[at / 32 + k] |= piece.data[k] << at % 32;
        if (at % 32 + bits > 32) words[at / 32 + k + 1] |= piece.data[k] >> (32 - at % 32);
    }
}
template<class... Pieces>
cxxrtl::value<(Pieces::bits + ...)> mellivora_join(const Pieces&... pieces) {
    cxxrtl::value<(Pieces::bits + ...)> all;
    size_t at = (Pieces::bits + ...);
    ((at -= Pieces::bits, mellivora_put(all.data, at, pieces.val())), ...);
    return all;
}
"""
"""The pieces in one value, the first one highest; words of CXXRTL have 32 bits."""
_LEAST = 4
_CONCAT, _VALUE = ".concat(", ".val()"
_OPENING = {")": "(", "}": "{", ">": "<"}


def joined(text: str) -> str:
    """Statements of `write_cxxrtl` with concatenations of at least _LEAST pieces by JOIN."""
    made: list[str] = []
    at = 0
    while (found := text.find(_CONCAT, at)) >= 0:
        start, end = _start(text, found), found
        if start < at:  # goes on from one that is made already
            made.append(text[at : found + len(_CONCAT)])
            at = found + len(_CONCAT)
            continue
        pieces = [text[start:found]]
        while text.startswith(_CONCAT, end):
            begin = end + len(_CONCAT)
            end = _end(text, begin)
            pieces.append(text[begin:end])
            end += 1
        first, *rest = map(joined, pieces)
        made.append(text[at:start])
        if len(pieces) >= _LEAST:
            made.append(f"mellivora_join({', '.join([first, *rest])})")
            end += len(_VALUE) if text.startswith(_VALUE, end) else 0
        else:
            made += [first, *(f"{_CONCAT}{piece})" for piece in rest)]
        at = end
    return "".join([*made, text[at:]])


def _start(text: str, end: int) -> int:
    """Where the operand begins that ends before `end`: names, members, brackets of each kind."""
    while end > 0:
        last = text[end - 1]
        if text.startswith("->", end - 2):
            end -= 2
        elif opening := _OPENING.get(last):
            depth = 0
            while True:
                end -= 1
                depth += (text[end] == last) - (text[end] == opening)
                if not depth:
                    break
        elif last.isalnum() or last in "_.:":
            end -= 1
        else:
            break
    return end


def _end(text: str, begin: int) -> int:
    """Where the bracket closes that was opened before `begin`."""
    depth = 1
    while True:
        depth += (text[begin] == "(") - (text[begin] == ")")
        if not depth:
            return begin
        begin += 1
