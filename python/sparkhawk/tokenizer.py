"""Text and token ids."""

import ctypes
import os
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

from ._library import S, check, header, ids_array, lib, taken_bytes, taken_ids

FLAGS = header.enums[""]
Message = Dict[str, str]


class Tokenizer:
    """The vocabulary of a GGUF file, a tokenizer.json, a tokenizer.model, or a directory that holds one of the latter two. May be
    used by several threads at once."""

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        handle = ctypes.c_void_p()
        check(lib.shk_tokenizer_load, ctypes.byref(handle), os.fsencode(path))
        self._handle: Optional[int] = handle.value
        self._owner: Any = None

    @classmethod
    def _of(cls, handle: int, owner: Any) -> "Tokenizer":
        """A model's tokenizer, which lives as long as the model."""
        self = cls.__new__(cls)
        self._handle, self._owner = handle, owner
        return self

    def __del__(self) -> None:
        if getattr(self, "_handle", None) and self._owner is None:
            lib.shk_tokenizer_free(self._handle)

    @property
    def _pointer(self) -> int:
        if self._owner is not None:
            self._owner._pointer  # says so if it is closed
        assert self._handle
        return self._handle

    @property
    def vocab_size(self) -> int:
        return int(lib.shk_tokenizer_vocab_size(self._pointer))

    @property
    def bos(self) -> Optional[int]:
        """The id of the token that begins a text; None if there is none. So is `eos`, which ends it."""
        return found if (found := int(lib.shk_tokenizer_bos(self._pointer))) >= 0 else None

    @property
    def eos(self) -> Optional[int]:
        return found if (found := int(lib.shk_tokenizer_eos(self._pointer))) >= 0 else None

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation: eos, or an end-of-turn token."""
        return bool(lib.shk_tokenizer_is_end(self._pointer, token))

    def encode(self, text: Union[str, bytes], *, bos: bool = True, special: bool = False) -> List[int]:
        """Token ids. Text stands for itself; with `special`, "<start_of_turn>" is that token: for text that you vouch for."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)
        ids, n = ctypes.c_void_p(), ctypes.c_size_t()
        flags = (FLAGS["SHK_TOKENIZE_BOS"] if bos else 0) | (FLAGS["SHK_TOKENIZE_SPECIAL"] if special else 0)
        check(lib.shk_tokenize, self._pointer, data, len(data), flags, ctypes.byref(ids), ctypes.byref(n))
        return taken_ids(ids, n.value)

    def decode_bytes(self, ids: Sequence[int], *, special: bool = False) -> bytes:
        text, n = ctypes.c_void_p(), ctypes.c_size_t()
        check(lib.shk_detokenize, self._pointer, ids_array(ids), len(ids), special, ctypes.byref(text), ctypes.byref(n))
        return taken_bytes(text, n.value)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of the ids, in which bytes that are not UTF-8 are U+FFFD."""
        return self.decode_bytes(ids, special=special).decode("utf-8", "replace")

    def chat(self, messages: Iterable[Message], *, add_generation_prompt: bool = True, bos: bool = True) -> List[int]:
        """The prompt that the chat template makes of messages {"role": "system"|"user"|"assistant", "content": text}. What they say
        is plain text and cannot forge a turn."""
        pairs = [(str(m["role"]).encode(), str(m["content"]).encode("utf-8", "surrogateescape")) for m in messages]
        if any(b"\0" in text for pair in pairs for text in pair):
            raise ValueError("a message holds a character zero")
        array = (S["shk_message"] * len(pairs))(*pairs)
        ids, n = ctypes.c_void_p(), ctypes.c_size_t()
        check(lib.shk_chat_tokens, self._pointer, array, len(pairs), add_generation_prompt, FLAGS["SHK_TOKENIZE_BOS"] if bos else 0,
              ctypes.byref(ids), ctypes.byref(n))
        return taken_ids(ids, n.value)
