"""LLM: a language model on a simulated chip, text in and text out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.compiler.layout import MAX_BATCH
from mellivora.errors import UsageError
from mellivora.frontends.llm import LanguageModel, load_model
from mellivora.graph.ir import Graph, ParamSpec, param_format
from mellivora.runtime.cache import Executable, condensed, content_hash, key_of, obtain
from mellivora.runtime.engine import Engine
from mellivora.runtime.sampling import GREEDY, Sampling, StopText, sample
from mellivora.spec import ChipSpec, load_chip

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A text to continue, token ids, or the messages of a conversation ({"role", "content"})."""
Say = Callable[[str], None]
DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class Piece:
    """What one generated token added.

    index: of its prompt. id: the token; None in a last piece that only brings text held back. text:
    what became certain, often "". finish: "" while it goes on, then "stop" (an end token or stop
    text) or "length".
    """

    index: int
    id: int | None
    text: str
    finish: str = ""


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log likelihood (nats, float64) of `tokens` next tokens."""

    perplexity: float
    tokens: int
    nats: float


@dataclass
class _Sequence:
    """A sequence that is being generated."""

    index: int
    ids: list[int]
    prompt_tokens: int
    limit: int
    sampling: Sampling
    stop: StopText
    stream: Any
    slot: int = -1
    finish: str = ""


class LLM:
    """A model compiled for a chip, with as many slots as `max_batch`, each of `context` tokens
    (default: 2048, or the model's own limit where that is less).

    model: a name or path that `frontends.load_model` knows, or a LanguageModel (loaded with
    shapes_only, its weights are read from its source when they are needed). chip: a preset, a
    TOML file or a ChipSpec. cores: use so many of the chip's cores. activations: "mxint8", "x2" or
    "x3". shapes_only: parameters without data, in `weight_format`; enough for timing. cache: keep
    compiled models on disk. say: is told of long work, one sentence at a time. dump_after, dump:
    shows what the compiler has after a pass; the cache is then left alone. Nothing is computed
    before the first request. Raises ModelError, SpecError, CompileError, UsageError MV0812.
    """

    def __init__(
        self,
        model: str | Path | LanguageModel = "smollm2",
        chip: str | Path | ChipSpec = "m1",
        *,
        activations: str = "mxint8",
        max_batch: int = 8,
        context: int | None = None,
        cores: int | None = None,
        threads: int = 2,
        shapes_only: bool = False,
        weight_format: str = "q4_0",
        cache: bool = True,
        say: Say | None = None,
        dump_after: str | None = None,
        dump: Say | None = None,
    ) -> None:
        if not 1 <= max_batch <= MAX_BATCH:
            raise _limit("max_batch", max_batch, f"1 to {MAX_BATCH}")
        self.chip = chip_of(chip, cores)
        self.activations, self._say = activations, say or (lambda text: None)
        if isinstance(model, LanguageModel):
            self.model = model
        else:  # the configuration and the tokenizer are enough when the cache has the rest
            self.model = load_model(model, shapes_only=True, weight_format=weight_format)
        self.config, self.tokenizer = self.model.config, self.model.tokenizer
        context = min(DEFAULT_CONTEXT, self.config.context) if context is None else context
        if not 1 <= context <= self.config.context:
            raise _limit("context", context, f"1 to {self.config.context}, the model's own")
        options = {"activations": activations, "max_batch": max_batch, "context": context}
        complete = not any(isinstance(p, ParamSpec) for p in self.model.graph.params.values())

        def compile() -> Executable:
            source = self.model
            if not (complete or shapes_only):
                self._say(f"reading {source.source}")
                source = load_model(source.source)
            self._say(f"compiling {source.graph.name} for {self.chip.name}")
            dumping = {"dump_after": dump_after, "dump": dump or print}
            made = _compile(source.graph, self.chip, {**options, **dumping})
            made.notes = [*condensed(source.notes), *made.notes]
            return made

        # Without weights there is nothing to pack, and weights in memory have no file to hash.
        use = cache and dump_after is None and not (complete or shapes_only)
        files = content_hash(self.model.source) if use else ""
        key = key_of(files, self.chip.fingerprint(), options) if use else ""
        self.executable, self.from_cache = obtain(key, compile, use=use)
        self.notes = self.executable.notes
        self.engine = Engine(self.executable, threads=threads)

    def __repr__(self) -> str:
        e = self.executable
        name = self.model.graph.name
        return f"<LLM {name} on {self.chip.name}: {e.slots} slots of {e.context} tokens>"

    # ------------------------------------------------------------------------------------ text, ids

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt. Raises UsageError MV0814 (no tokenizer)."""
        if isinstance(prompt, str):
            ids = self._tokenizer().encode(prompt)
        elif len(prompt) and isinstance(prompt[0], Mapping):
            ids = self._tokenizer().encode_chat(prompt)  # type: ignore[arg-type]
        else:
            ids = [int(id_) for id_ in prompt]  # type: ignore[arg-type]
        return ids

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise UsageError(
                "MV0814",
                "the model has no tokenizer, so it takes token ids only",
                where=self.model.source,
                hint="give a list of token ids, or a model file with its tokenizer",
            )
        return self.tokenizer

    # ----------------------------------------------------------------------------------- generation

    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> Iterator[Piece]:
        """The answer to one prompt, a token at a time. As `generate_batch`."""
        return self.generate_batch(
            [prompt],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            ignore_eos=ignore_eos,
        )

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> Iterator[Piece]:
        """Answers to all prompts at once, pieces as they come; prompts beyond the slots wait for
        one.

        Prompt i draws from stream `sampling.stream + i`, so equal prompts answer differently unless
        greedy, and an answer does not depend on what else runs. A sequence ends with "length" when
        its slot is full. Raises UsageError MV0813, MV0814, MV0815 (a prompt longer than the
        context), before anything is computed.
        """
        waiting = [
            self._sequence(i, self.encode(prompt), max_new_tokens, sampling, stop)
            for i, prompt in enumerate(prompts)
        ]
        return self._generate(waiting, frozenset() if ignore_eos else self._eos())

    def _eos(self) -> frozenset[int]:
        return frozenset(self.tokenizer.eos_ids) if self.tokenizer else frozenset()

    def _sequence(
        self,
        index: int,
        ids: list[int],
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
    ) -> _Sequence:
        check_prompt(ids, self.executable.context, self.config.context)
        sampling = dataclasses.replace(sampling, stream=sampling.stream + index)
        stream = self.tokenizer.stream() if self.tokenizer else None
        return _Sequence(index, ids, len(ids), max_new_tokens, sampling, StopText(stop), stream)

    def _generate(self, waiting: list[_Sequence], eos: frozenset[int]) -> Iterator[Piece]:
        running: list[_Sequence] = []
        free = list(range(self.executable.slots))
        while waiting or running:
            while waiting and free:
                sequence = waiting.pop(0)
                sequence.slot = free.pop(0)
                logits = self.engine.prefill(sequence.slot, sequence.ids)
                yield from self._advance(sequence, logits, eos)
                running.append(sequence)
                running = self._release(running, free)
            if running:
                batch = [(s.slot, s.ids[-1], len(s.ids) - 1) for s in running]
                for sequence, logits in zip(running, self.engine.decode(batch), strict=True):
                    yield from self._advance(sequence, logits, eos)
                running = self._release(running, free)

    @staticmethod
    def _release(running: list[_Sequence], free: list[int]) -> list[_Sequence]:
        free += [sequence.slot for sequence in running if sequence.finish]
        return [sequence for sequence in running if not sequence.finish]

    def _advance(self, s: _Sequence, logits: Any, eos: frozenset[int]) -> Iterator[Piece]:
        """Choose the next token of a sequence and tell what it adds."""
        token = sample(logits, s.sampling, seen=s.ids, position=len(s.ids))
        s.ids.append(token)
        if token in eos:
            s.finish = "stop"
            yield Piece(s.index, token, self._rest(s), "stop")
            return
        text = s.stop.push(s.stream.push(token)) if s.stream else ""
        made = len(s.ids) - s.prompt_tokens
        if s.stop.stopped:
            s.finish = "stop"
        elif made >= s.limit or len(s.ids) > self.executable.context:
            s.finish = "length"
            text += self._rest(s)
        yield Piece(s.index, token, text, s.finish)

    @staticmethod
    def _rest(s: _Sequence) -> str:
        """Text held back, at the end of a sequence."""
        return s.stop.push(s.stream.finish()) + s.stop.finish() if s.stream else ""

    # ----------------------------------------------------------------------------------- perplexity

    def perplexity(
        self,
        ids: Sequence[int],
        windows: int = 8,
        length: int = 512,
        *,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> Perplexity:
        """Of the first `windows` runs of `length` ids, each scored on its length - 1 next tokens.

        progress is told (windows done, windows, perplexity so far).
        Raises UsageError MV0816 if there are not enough ids or a window is longer than the context.
        """
        check_windows(len(ids), windows, length, self.executable.context)
        nats = 0.0
        for window in range(windows):
            part = np.asarray(ids[window * length : (window + 1) * length], np.int64)
            row = 0
            for logits in self.engine.score(0, part.tolist()):
                targets = part[row + 1 : row + 1 + len(logits)]
                nats += negative_log_likelihood(logits[: len(targets)], targets)
                row += len(logits)
            if progress:
                done = (window + 1) * (length - 1)
                progress(window + 1, windows, math.exp(nats / done))
        tokens = windows * (length - 1)
        return Perplexity(math.exp(nats / tokens), tokens, nats)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Sum over rows of -log softmax(logits [n, vocab])[targets [n]], in float64."""
    scores = logits.astype(np.float64)
    top = scores.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float((log_sums - scores[np.arange(len(targets)), targets]).sum())


def check_prompt(ids: Sequence[int], context: int, limit: int) -> None:
    """Of 1 to `context` ids. Raises UsageError MV0813, MV0815; limit is what the model could
    take.
    """
    if not ids:
        raise UsageError(
            "MV0813",
            "the prompt is empty",
            allowed="at least one token of text",
            hint="say something",
        )
    if len(ids) > context:
        shorten = "shorten the prompt"
        raise UsageError(
            "MV0815",
            "the prompt is longer than the context",
            given=f"{len(ids)} tokens",
            allowed=f"at most {context} tokens (the model's own limit: {limit})",
            hint=shorten if context >= limit else f"{shorten}, or compile with a larger context",
        )


def check_windows(tokens: int, windows: int, length: int, context: int) -> None:
    """That `tokens` make these windows of at most `context`. Raises UsageError MV0816."""
    if tokens < windows * length or not 2 <= length <= context or windows < 1:
        raise UsageError(
            "MV0816",
            "the text does not make these windows",
            given=f"{tokens} tokens for {windows} windows of {length}",
            allowed=f"{windows * length} tokens or more, windows of 2 to {context}",
            hint="ask for fewer or shorter windows, or give a longer text",
        )


def chip_of(chip: str | Path | ChipSpec, cores: int | None = None) -> ChipSpec:
    """The chip, with only so many cores if asked. Raises SpecError, UsageError MV0817."""
    spec = chip if isinstance(chip, ChipSpec) else load_chip(chip)
    if cores is None or cores == spec.cores:
        return spec
    if not 1 <= cores < spec.cores:
        raise UsageError(
            "MV0817",
            "the chip does not have so many cores",
            where=spec.name,
            given=str(cores),
            allowed=f"1 to {spec.cores}",
            hint="leave --cores out to use all of them",
        )
    return spec.replace(cores=cores)


def _compile(graph: Graph, chip: ChipSpec, options: Mapping[str, Any]) -> Executable:
    """Compile, and prove the program before it can be loaded.

    The smallest check point of each entry is proven here, once a compilation: all of a program's
    instructions but those of loops that run more often. The rest are proven in the tests; shapes
    without weights are only timed, and what is timed cannot do harm.
    """
    from mellivora.compiler import compile_model
    from mellivora.isa.check import check_program
    from mellivora.sim.expand import expand

    formats = {param_format(tensor) for tensor in graph.params.values() if len(tensor.shape) == 2}
    compiled = compile_model(graph, chip, **options)
    if compiled.images:
        check_program(compiled.program, resolver=expand, points=1)
    return Executable.of(compiled, formats=sorted(formats))


def _limit(name: str, given: int, allowed: str) -> UsageError:
    return UsageError(
        "MV0812",
        "a limit of the compiled model is out of range",
        where=name,
        given=str(given),
        allowed=allowed,
        hint="choose a value in the range",
    )
