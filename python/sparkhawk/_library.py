"""The library: where it is, its functions, and its errors as exceptions."""

import array
import ctypes
import ctypes.util
import enum
import os
import pathlib
from typing import Any, Iterator, List, Sequence

from ._header import Header

HERE = pathlib.Path(__file__).resolve().parent
header = Header((HERE / "sparkhawk.h").read_text(encoding="utf-8"))


class Status(enum.IntEnum):
    """What kind of thing went wrong."""

    IO = 1           #: a file could not be opened, read or written
    FORMAT = 2       #: a file's content is not what its format or its config says
    UNSUPPORTED = 3  #: well-formed, but of a kind that the library does not run
    MEMORY = 4
    ARGUMENT = 5     #: a value is out of range
    LIMIT = 6        #: the session's context or another fixed capacity is full
    NUMERIC = 7      #: the model computed a NaN or an infinity
    DEVICE = 8       #: a GPU that cannot be used, or that failed


class SparkhawkError(Exception):
    """What the library reports: its message, and `status`."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def candidates() -> Iterator[str]:
    named = os.environ.get("SPARKHAWK_LIBRARY")
    if named:
        yield named
        return
    for path in (HERE / "libsparkhawk.so", HERE.parent.parent / "build" / "libsparkhawk.so"):
        if path.exists():
            yield str(path)
    installed = ctypes.util.find_library("sparkhawk")
    if installed:
        yield installed


def load() -> Any:
    """The library with the types of all functions that the header declares."""
    path = next(candidates(), None)
    if path is None:
        raise ImportError("libsparkhawk.so is not next to the package, not in build/ and not installed: build it with `make`, or "
                          "set SPARKHAWK_LIBRARY to its path")
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"the library cannot be loaded: {error}") from None
    for name, (result, arguments) in header.functions.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"{path} has no {name}: it is of another version than this package, {header.version}")
        function.restype, function.argtypes = result, arguments
    version = library.shk_version().decode()
    if version != header.version:
        raise ImportError(f"{path} is version {version}, this package is for {header.version}")
    return library


lib = load()
S = header.structs
free = ctypes.CDLL(None).free
free.argtypes, free.restype = [ctypes.c_void_p], None


def check(function: Any, *arguments: Any) -> None:
    """Calls a function that ends with `shk_error *err`; its failure becomes an exception."""
    err = S["shk_error"]()
    if function(*arguments, ctypes.byref(err)):
        raise SparkhawkError(Status(err.status), err.message.decode("utf-8", "replace"))


def ids_array(ids: Sequence[int]) -> Any:
    """[n] int32_t. What is no integer, or does not fit, is an error."""
    data = array.array("i", list(ids))  # bytes would be read as machine words
    return (ctypes.c_int32 * len(data)).from_buffer(data) if data else None


def taken_ids(pointer: ctypes.c_void_p, n: int) -> List[int]:
    """The ids of malloc'd memory, which is freed."""
    try:
        return list((ctypes.c_int32 * n).from_address(pointer.value)) if n and pointer.value else []
    finally:
        free(pointer)


def taken_bytes(pointer: ctypes.c_void_p, n: int) -> bytes:
    """The bytes of malloc'd memory, which is freed."""
    try:
        return ctypes.string_at(pointer, n)
    finally:
        free(pointer)
