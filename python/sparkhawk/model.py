"""Models, and the sessions that remember sequences."""

import array
import contextlib
import ctypes
import dataclasses
import enum
import json
import math
import os
import queue
import secrets
import threading
import weakref
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from ._library import S, SparkhawkError, Status, check, header, ids_array, lib, taken_bytes
from .tokenizer import Message, Tokenizer

Path = Union[str, "os.PathLike[str]"]
Prompt = Union[str, Sequence[int]]
EMBED_ROWS = 256  # tokens whose states are held at a time
DEVICES = {"cpu": header.enums["shk_device"]["SHK_DEVICE_CPU"], "cuda": header.enums["shk_device"]["SHK_DEVICE_CUDA"]}


class Stop(enum.Enum):
    """Why a generation ended."""

    LENGTH = 0  #: max_tokens, or the context is full
    END = 1     #: the model ended it
    STRING = 2  #: a stop string appeared
    CALLER = 3  #: the caller had enough


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is chosen. As it stands: always the likeliest."""

    temperature: float = 0.0             #: 0: always the likeliest token
    top_k: int = 0                       #: choose among the k likeliest; 0: all
    top_p: float = 1.0                   #: choose among the likeliest that make up p
    min_p: float = 0.0                   #: drop tokens less likely than p times the likeliest
    repeat_penalty: float = 1.0          #: make recent tokens less likely; 1: off
    repeat_last_n: int = 64              #: how many recent tokens the penalty looks at
    presence_penalty: float = 0.0        #: taken off the logit of every recent token
    frequency_penalty: float = 0.0       #: taken off for each time that it appears among them
    seed: Optional[int] = None           #: the same seed gives the same text; None: a new one each time
    logit_bias: Optional[Dict[int, float]] = None  #: added to the logits of tokens; -inf forbids one

    def _c(self) -> Any:
        out = lib.shk_sampling_default()
        for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n", "presence_penalty",
                     "frequency_penalty"):
            setattr(out, name, getattr(self, name))
        out.seed = secrets.randbits(32) if self.seed is None else self.seed
        pairs = sorted((self.logit_bias or {}).items())
        bias = (S["shk_bias"] * len(pairs))(*pairs)
        out.bias, out.n_bias = ctypes.cast(bias, ctypes.c_void_p), len(pairs)
        out.kept = bias  # alive for as long as the structure
        return out


@dataclasses.dataclass(frozen=True)
class Generated:
    """What a generation gave."""

    text: str
    tokens: List[int]
    stop: Stop
    prompt_tokens: int
    prefill_s: float
    decode_s: float


class Model:
    """A GGUF file or a Hugging Face directory, mapped; any number of sessions share it, and threads may, too. `with` or close()
    frees it at once, with its sessions, and no other thread may be using it then; otherwise that happens when nothing refers to it
    any more."""

    def __init__(self, path: Path, *, threads: int = 0, device: str = "cpu", exact: bool = False, dense: bool = False,
                 kv_type: Optional[str] = None, window_extra: int = 0) -> None:
        self._handle: Optional[int] = None
        if device not in DEVICES:
            raise ValueError(f"device '{device}' is none of {', '.join(DEVICES)}")
        params = S["shk_model_params"](threads=threads, device=DEVICES[device], exact=exact, dense=dense, window_extra=window_extra,
                                       kv_type=kv_type.encode() if kv_type else None)
        handle = ctypes.c_void_p()
        check(lib.shk_model_load, ctypes.byref(handle), os.fsencode(path), ctypes.byref(params))
        self._handle = handle.value
        self._sessions: "weakref.WeakSet[Session]" = weakref.WeakSet()

    @property
    def _pointer(self) -> int:
        if self._handle is None:
            raise ValueError("the model is closed")
        return self._handle

    def close(self) -> None:
        if self._handle is None:
            return
        for session in list(self._sessions):
            session.close()
        lib.shk_model_free(self._handle)
        self._handle = None

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    @property
    def tokenizer(self) -> Tokenizer:
        handle = lib.shk_model_tokenizer(self._pointer)
        if not handle:
            raise SparkhawkError(Status.UNSUPPORTED, "the model has no tokenizer")
        return Tokenizer._of(handle, self)

    @property
    def has_tokenizer(self) -> bool:
        return bool(lib.shk_model_tokenizer(self._pointer))

    @property
    def vocab_size(self) -> int:
        return int(lib.shk_model_vocab_size(self._pointer))

    @property
    def context(self) -> int:
        """The longest sequence that a session takes by default; 0: no bound."""
        return int(lib.shk_model_context(self._pointer))

    def describe(self) -> Dict[str, Any]:
        """Layers, parameters, bytes, state sizes, work per token: the fields that docs/FORMAT.md lists."""
        text = ctypes.c_void_p()
        check(lib.shk_model_describe, self._pointer, ctypes.byref(text))
        assert text.value
        described: Dict[str, Any] = json.loads(taken_bytes(text, len(ctypes.string_at(text))))
        return described

    def session(self, context: int = 0) -> "Session":
        """A new, empty sequence of at most `context` tokens (0: the model's)."""
        return Session(self, context)

    def advance(self, spans: Sequence[Tuple["Session", Sequence[int]]]) -> List["array.array[float]"]:
        """Advances several sessions, each by its own tokens, in one pass over the weights; the logits after each one's last token.
        The results are those of advancing them one by one."""
        logits = [array.array("f", bytes(4 * self.vocab_size)) for _ in spans]
        self._advance(spans, logits=logits)
        return logits

    def embed(self, text: Prompt) -> "array.array[float]":
        """A vector of length 1 for the text: the mean of its tokens' states behind the last layer, as the service's
        /v1/embeddings gives it."""
        ids = self.tokenizer.encode(text) if isinstance(text, str) else list(text)
        width = int(lib.shk_model_width(self._pointer))
        total, hidden = [0.0] * width, array.array("f", bytes(4 * width * min(len(ids), EMBED_ROWS)))
        with self.session() as session:
            for i in range(0, len(ids), EMBED_ROWS):
                piece = ids[i:i + EMBED_ROWS]
                self._advance([(session, piece)], hidden=[hidden])
                for row in range(len(piece)):
                    total = [a + b for a, b in zip(total, hidden[row * width:(row + 1) * width])]
        length = math.sqrt(math.fsum(x * x for x in total))
        return array.array("f", (x / length if length else 0.0 for x in total))

    def _advance(self, spans: Sequence[Tuple["Session", Sequence[int]]], **outputs: List["array.array[float]"]) -> None:
        """outputs: a member of shk_span, and for each span what is written there."""
        sessions = [session for session, _ in spans]
        if len(set(map(id, sessions))) != len(sessions):
            raise ValueError("a session may appear once")
        tokens = [ids_array(ids) for _, ids in spans]
        array_of = (S["shk_span"] * len(spans))()
        locked = sorted(sessions, key=id)  # in one order, whoever locks them
        for session in locked:
            session._lock.acquire()
        try:
            for span, session, ids in zip(array_of, sessions, tokens):
                span.session, span.n = session._pointer, len(ids) if ids is not None else 0
                span.tokens = ctypes.cast(ids, ctypes.c_void_p) if ids is not None else None
            for name, written in outputs.items():
                for span, out in zip(array_of, written):
                    setattr(span, name, out.buffer_info()[0])
            check(lib.shk_advance, self._pointer, array_of, len(spans))
        finally:
            for session in locked:
                session._lock.release()

    def generate(self, prompt: Prompt, max_tokens: int = 256, **options: Any) -> Generated:
        """What follows the prompt, in a session of its own; options are those of Session.generate."""
        with self.session() as session:
            return session.generate(prompt, max_tokens, **options)

    def stream(self, prompt: Prompt, max_tokens: int = 256, **options: Any) -> Iterator[str]:
        """The same, piece by piece."""
        with self.session() as session:
            yield from session.stream(prompt, max_tokens, **options)

    def chat(self, system: Optional[str] = None, **options: Any) -> "Chat":
        """A conversation; options are those of Session.generate, for every answer."""
        return Chat(self, system, **options)


class Session:
    """What one sequence remembers. Two threads that use one session take turns."""

    def __init__(self, model: Model, context: int = 0, _handle: Optional[int] = None) -> None:
        self._handle = _handle
        self._lock = threading.RLock()
        self.model = model
        if _handle is None:
            handle = ctypes.c_void_p()
            check(lib.shk_session_new, ctypes.byref(handle), model._pointer, context)
            self._handle = handle.value
        model._sessions.add(self)

    @property
    def _pointer(self) -> int:
        if self._handle is None:
            raise ValueError("the session is closed")
        return self._handle

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                lib.shk_session_free(self._handle)
            self._handle = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # within a cycle of garbage the model may have gone first, and has closed this then
        if getattr(self, "_handle", None) is not None:
            self.close()

    @property
    def position(self) -> int:
        """Tokens consumed so far."""
        with self._lock:
            return int(lib.shk_session_position(self._pointer))

    @property
    def context(self) -> int:
        """The most it can hold; 0: no bound."""
        with self._lock:
            return int(lib.shk_session_context(self._pointer))

    @property
    def bytes(self) -> int:
        """What its state occupies now."""
        with self._lock:
            return int(lib.shk_session_bytes(self._pointer))

    @property
    def cache_bytes(self) -> int:
        """What it would occupy if every layer kept the keys and values of all positions, as in a transformer without windows."""
        with self._lock:
            return int(lib.shk_session_dense_bytes(self._pointer))

    @property
    def earliest(self) -> int:
        """The earliest position that truncate can go back to: recurrent layers know no past."""
        with self._lock:
            return int(lib.shk_session_earliest(self._pointer))

    def truncate(self, position: int) -> None:
        """Back to an earlier position, as if what came after it had never been read."""
        with self._lock:
            check(lib.shk_session_truncate, self._pointer, position)

    def reset(self) -> None:
        """Back to position 0."""
        with self._lock:
            lib.shk_session_reset(self._pointer)

    def fork(self) -> "Session":
        """An independent copy at the same position."""
        handle = ctypes.c_void_p()
        with self._lock:
            check(lib.shk_session_fork, ctypes.byref(handle), self._pointer)
        return Session(self.model, _handle=handle.value)

    def save(self, path: Path) -> None:
        """The state as a file."""
        with self._lock:
            check(lib.shk_session_save, self._pointer, os.fsencode(path))

    def load(self, path: Path) -> None:
        """A state that was saved with the same model and kv_type, in any process."""
        with self._lock:
            check(lib.shk_session_restore, self._pointer, os.fsencode(path))

    def advance(self, tokens: Sequence[int]) -> "array.array[float]":
        """Consumes tokens; the logits after the last one."""
        return self.model.advance([(self, tokens)])[0]

    def generate(self, prompt: Prompt, max_tokens: int = 256, *, on_text: Optional[Callable[[str], object]] = None,
                 **options: Any) -> Generated:
        """Consumes the prompt and generates. Options: the fields of Sampling, or `sampling`, a Sampling; `stop`, strings before
        which the text ends; `ignore_end`, to go on after the model's end; `schema`, a JSON schema that the text will fit
        (docs/STRUCTURED.md), or True for any JSON object.

        `on_text` gets the text as it becomes certain, in a thread of its own, and ends the generation by returning True. Ctrl-C
        ends it, too. Afterwards the session has consumed all of it, except for the token that ended it: the next call continues."""
        enough = threading.Event()
        worker = _Worker(lambda: self._generate(prompt, max_tokens, lambda text: enough.is_set() or (
            on_text is not None and on_text(text) is True), **options))
        try:
            worker.join()
        finally:
            enough.set()
            worker.join()
        return worker.result()

    def stream(self, prompt: Prompt, max_tokens: int = 256, **options: Any) -> Iterator[str]:
        """The text in pieces, as it becomes certain; options are those of generate. Ending the iteration early ends the
        generation. The iterator's return value is what generate returns."""
        pieces: "queue.SimpleQueue[Optional[str]]" = queue.SimpleQueue()
        enough = threading.Event()

        def on_text(text: str) -> bool:
            if text:
                pieces.put(text)
            return enough.is_set()

        def work() -> Generated:
            try:
                return self._generate(prompt, max_tokens, on_text, **options)
            finally:
                pieces.put(None)

        worker = _Worker(work)
        try:
            while (piece := pieces.get()) is not None:
                yield piece
        finally:
            enough.set()
            worker.join()
        return worker.result()

    def _generate(self, prompt: Prompt, max_tokens: int, on_text: Callable[[str], bool], *, sampling: Optional[Sampling] = None,
                  stop: Sequence[str] = (), ignore_end: bool = False, schema: Union[None, bool, str, Dict[str, Any]] = None,
                  **options: Any) -> Generated:
        chosen = sampling or Sampling(**options)
        if sampling and options:
            raise TypeError(f"`sampling` and {', '.join(options)}")
        with self._lock, _grammar(self.model, schema) as grammar:
            ids = self._ids(prompt)
            start = self.position
            raised: List[BaseException] = []
            request = self._request(ids, max_tokens, chosen, stop, ignore_end)
            request.grammar = grammar
            request.on_text = type(request.on_text)(_caller(on_text, raised))
            out = S["shk_generated"]()
            check(lib.shk_generate, self._pointer, ctypes.byref(request), ctypes.byref(out))
            try:
                result = _generated(out, len(ids))
            finally:
                lib.shk_generated_clear(ctypes.byref(out))
            if raised:
                raise raised[0]
            self._settle(result, start)
            return result

    def _ids(self, prompt: Prompt) -> List[int]:
        """A text gets a bos token where the sequence begins."""
        return self.model.tokenizer.encode(prompt, bos=self.position == 0) if isinstance(prompt, str) else list(prompt)

    def _request(self, ids: List[int], max_tokens: int, sampling: Sampling, stop: Sequence[str], ignore_end: bool) -> Any:
        if isinstance(stop, str):
            raise TypeError("`stop` is a list of strings")
        if max_tokens < 0:
            raise ValueError("max_tokens is negative")
        strings = (ctypes.c_char_p * len(stop))(*(one.encode() for one in stop))
        prompt = ids_array(ids)
        request = S["shk_generation"](n_prompt=len(ids), max_tokens=max_tokens, n_stop=len(stop), ignore_end=ignore_end)
        request.prompt = ctypes.cast(prompt, ctypes.c_void_p) if ids else None
        request.stop = ctypes.cast(strings, ctypes.c_void_p)
        request.sampling = converted = sampling._c()
        request.kept = prompt, strings, converted  # alive for as long as the structure
        return request

    def _settle(self, result: Generated, start: int) -> None:
        """The library leaves the last token unread. An end token stays so."""
        consumed = self.position - start - result.prompt_tokens
        ended = result.stop is Stop.END and self.model.tokenizer.is_end(result.tokens[-1])
        rest = result.tokens[max(consumed, 0):len(result.tokens) - ended]
        if consumed >= 0 and rest and (not self.context or self.position < self.context):
            self.advance(rest)


class Chat:
    """A conversation: the session reads each turn once. `session` can be saved, loaded and forked."""

    def __init__(self, model: Model, system: Optional[str] = None, **options: Any) -> None:
        self.session = model.session()
        self.system = system
        self.options = options

    def _turn(self, message: str) -> List[int]:
        """What the template puts between what the session has read and the next answer."""
        tokenizer = self.session.model.tokenizer
        said: Message = {"role": "user", "content": message}
        if self.session.position == 0:
            return tokenizer.chat(([{"role": "system", "content": self.system}] if self.system else []) + [said])
        before: List[Message] = [{"role": "user", "content": ""}]
        seen = tokenizer.chat(before, bos=False)
        return tokenizer.chat(before + [{"role": "assistant", "content": ""}, said], bos=False)[len(seen):]

    def send(self, message: str, **options: Any) -> Generated:
        """The answer to a message."""
        return self.session.generate(self._turn(message), **{**self.options, **options})

    def stream(self, message: str, **options: Any) -> Iterator[str]:
        """The same, piece by piece."""
        return self.session.stream(self._turn(message), **{**self.options, **options})


class _Worker(threading.Thread):
    """A generation in a thread of its own, so that signals find their way to the thread that waits for it."""

    def __init__(self, work: Callable[[], Generated]) -> None:
        super().__init__(name="sparkhawk")
        self._work = work
        self._value: Optional[Generated] = None
        self._error: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> Generated:
        self.join()
        if self._error:
            raise self._error
        assert self._value
        return self._value


def _caller(on_text: Callable[[str], bool], raised: List[BaseException]) -> Callable[[Any, Any, int], int]:
    """A callback for C, out of which nothing is thrown: what on_text raises ends the generation and is kept."""
    def call(_: Any, text: Any, n: int) -> int:
        try:
            return 1 if raised or on_text(ctypes.string_at(text, n).decode("utf-8", "replace")) else 0
        except BaseException as error:
            raised.append(error)
            return 1
    return call


@contextlib.contextmanager
def _grammar(model: Model, schema: Union[None, bool, str, Dict[str, Any]]) -> Iterator[Optional[int]]:
    """The schema compiled, for as long as it is needed."""
    if schema is None or schema is False:
        yield None
        return
    text = None if schema is True else (schema if isinstance(schema, str) else json.dumps(schema)).encode()
    handle = ctypes.c_void_p()
    check(lib.shk_grammar_new, ctypes.byref(handle), model.tokenizer._pointer, text)
    try:
        yield handle.value
    finally:
        lib.shk_grammar_free(handle)


def _generated(out: Any, n_prompt: int) -> Generated:
    tokens = list((ctypes.c_int32 * out.n_tokens).from_address(out.tokens)) if out.n_tokens else []
    text = ctypes.string_at(out.text, out.n_text).decode("utf-8", "replace") if out.n_text else ""
    return Generated(text, tokens, Stop(out.stop), n_prompt, out.prefill_s, out.decode_s)
