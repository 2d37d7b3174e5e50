"""Tokenizer: text to token ids and back, whichever file the vocabulary came from.

The splitting and merging is done by the `tokenizers` package. Going back is done here, on bytes: a
token is a run of bytes, a text is their concatenation read as UTF-8. So streaming is exact: the
pieces of a `StreamDecoder` put together are what `Tokenizer.decode` gives for all ids at once.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mellivora.errors import ModelError
from mellivora.frontends.chat import ChatTemplate
from mellivora.frontends.safetensors_file import MAX_JSON_BYTES, read_json

SPACE_MARK = "\u2581"  # SentencePiece writes a space as this
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE (GPT-2): printable Latin-1 stays, the rest moves up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


class Tokenizer:
    """Text to ids and back.

    backend: a `tokenizers.Tokenizer`.  bos_id: None where the model has none.  eos_ids: every id
    that ends a generation, the one of the file first.  add_bos: whether `encode` starts with
    bos_id.  special_ids: ids that `decode` leaves out.
    """

    def __init__(
        self,
        backend: Any,
        *,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        add_bos: bool = False,
        chat_template: str | None = None,
    ) -> None:
        self.backend, self.bos_id, self.add_bos = backend, bos_id, add_bos
        self.chat_template = chat_template
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id_ for id_, token in added.items() if token.special)
        self._added = {id_: token.content.encode() for id_, token in added.items()}
        self._style, self._strip_first_space = _decoder_style(backend)
        self._lock = threading.Lock()
        bos, eos = self._text_of(bos_id), self._text_of(self.eos_id)
        source = chat_template or ""
        self._chat = ChatTemplate(source, bos_token=bos, eos_token=eos) if source else None

    @property
    def eos_id(self) -> int | None:
        return self.eos_ids[0] if self.eos_ids else None

    def encode(self, text: str, *, special: bool = True, add_bos: bool | None = None) -> list[int]:
        """Token ids of a text.

        special: tokens such as <|im_end|> written in the text become those tokens; False reads
        them as plain text (for text of strangers). add_bos: None does as the model's file says.
        """
        with self._lock:  # the flag is a property of the backend, not an argument
            self.backend.encode_special_tokens = not special
            ids = self.backend.encode(_scrubbed(text), add_special_tokens=False).ids
        first = self.add_bos if add_bos is None else add_bos
        return [self.bos_id, *ids] if first and self.bos_id is not None else ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        stream = self.stream(skip_special=skip_special)
        return "".join([*(stream.push(id_) for id_ in ids), stream.finish()])

    def stream(self, *, skip_special: bool = True) -> StreamDecoder:
        return StreamDecoder(self, skip_special=skip_special)

    def token_bytes(self, id_: int) -> bytes:
        """The bytes a token stands for; none for an id beyond the vocabulary (padding rows).

        Raises ModelError MV0245 for a negative id.
        """
        if id_ < 0:
            raise ModelError(
                "MV0245",
                "a token id is negative",
                given=str(id_),
                allowed=f"0 to {self.vocab_size - 1}",
                hint="give ids that `encode` returned",
            )
        if id_ in self._added:
            return self._added[id_]
        token = self.backend.id_to_token(id_) if id_ < 1 << 32 else None
        if token is None:
            return b""
        if self._style == "byte_level":
            alphabet = byte_alphabet()
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return token.encode()
        match = _BYTE_TOKEN.fullmatch(token)
        return bytes([int(match[1], 16)]) if match else token.replace(SPACE_MARK, " ").encode()

    def apply_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation. Raises ModelError MV0242 (no template) to MV0244."""
        if self._chat is None:
            raise ModelError(
                "MV0242",
                "the model has no chat template",
                allowed="a model file with tokenizer.chat_template or chat_template.jinja",
                hint="use plain completion, or an instruct model",
            )
        return self._chat.render(messages, add_generation_prompt=add_generation_prompt)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> list[int]:
        """Ids of a conversation. BOS, where a model wants it, is written by its template."""
        return self.encode(self.apply_chat(messages, add_generation_prompt), add_bos=False)

    def _text_of(self, id_: int | None) -> str:
        return "" if id_ is None else self.backend.id_to_token(id_) or ""


class StreamDecoder:
    """Ids in, text out, one at a time; bytes of an unfinished character are held back."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special else frozenset[int]()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = tokenizer._strip_first_space

    def push(self, id_: int) -> str:
        """The text that became certain with this id; often "" within a character."""
        if id_ in self._skip:
            return ""
        piece = self._tokenizer.token_bytes(id_)
        if self._at_start and piece:
            piece, self._at_start = piece.removeprefix(b" "), False
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """What was held back: "" or U+FFFD for a character that never came to its end."""
        return self._utf8.decode(b"", final=True)


def _scrubbed(text: str) -> str:
    """Lone surrogates (JSON can bring them) cannot be encoded: U+FFFD takes their place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _decoder_style(backend: Any) -> tuple[str, bool]:
    """How tokens spell bytes, and whether a text's first space is a mark. ModelError MV0241."""
    decoder: dict[str, Any] = {"type": "none"}
    if backend.decoder:
        decoder = json.loads(backend.decoder.__getstate__())
    parts: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    kinds = {str(part["type"]) for part in parts}
    if "ByteLevel" in kinds:
        return "byte_level", False
    if kinds & {"ByteFallback", "Metaspace"}:
        strips = any(part["type"] == "Strip" and part.get("start") for part in parts)
        prepends = any(part.get("prepend_scheme") in ("always", "first") for part in parts)
        return "sentencepiece", strips or prepends
    raise ModelError(
        "MV0241",
        "the tokenizer's way of spelling text is not supported",
        given=", ".join(sorted(kinds)),
        allowed="byte-level BPE, SentencePiece with byte fallback",
        hint="use a model of a supported family",
    )


# -- Hugging Face folders --------------------------------------------------------------------------


def tokenizer_from_folder(folder: str | Path) -> Tokenizer:
    """tokenizer.json, with what tokenizer_config.json and its companions add.

    Raises ModelError MV0240 where tokenizer.json is absent or damaged.
    """
    import tokenizers

    folder = Path(folder)
    path = folder / "tokenizer.json"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise ModelError(
            "MV0240",
            "tokenizer.json cannot be read",
            where=str(path),
            given=str(error)[:200],
            allowed="a tokenizer.json of the tokenizers package",
            hint="save the tokenizer with save_pretrained, or download the folder again",
        ) from error
    config = _optional_json(folder / "tokenizer_config.json")
    bos_id = _token_id(backend, config.get("bos_token"))
    eos: list[int | None] = []
    for name in ("generation_config.json", "config.json"):
        ids = _optional_json(folder / name).get("eos_token_id")
        eos += [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]
    eos.insert(0, _token_id(backend, config.get("eos_token")))
    # tokenizer.json says by its post-processor whether a text starts with BOS.
    add_bos = bos_id is not None and backend.encode("", add_special_tokens=True).ids[:1] == [bos_id]
    return Tokenizer(
        backend,
        bos_id=bos_id,
        eos_ids=[id_ for id_ in eos if id_ is not None],
        add_bos=add_bos,
        chat_template=_folder_template(folder, config),
    )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _token_id(backend: Any, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _folder_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8", "replace")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
