"""Reads sparkhawk.h: its structures, enumerations and functions as ctypes. So there is one description of the interface, and what
the header gains is there without a line here. It understands the C that the header is written in, and no more."""

import ctypes
import re
from typing import Any, Dict, List, Tuple

BASE: Dict[str, Any] = {
    "void": None, "char": ctypes.c_char, "int": ctypes.c_int, "unsigned": ctypes.c_uint, "float": ctypes.c_float,
    "double": ctypes.c_double, "size_t": ctypes.c_size_t, "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
}
CALLBACK = re.compile(r"^(\w+) \(\*(\w+)\)\((.*)\)$")
DECLARATOR = re.compile(r"^([\s*]*)(\w*)\s*(?:\[(\d+)\])?$")


class Header:
    """version; structs, enums (name: {constant: value}; the nameless ones under ""), functions (name: (result, arguments))."""

    def __init__(self, text: str) -> None:
        found = re.search(r'#define SHK_VERSION "(.*)"', text)
        self.version = found[1] if found else ""
        self.structs: Dict[str, Any] = {}
        self.enums: Dict[str, Dict[str, int]] = {"": {}}
        self.functions: Dict[str, Tuple[Any, List[Any]]] = {}
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        text = re.sub(r"\s+", " ", text)
        statement = re.compile(r"typedef enum (?P<enum>\w+) \{(?P<constants>[^}]*)\}|(?P<nameless>enum) \{(?P<others>[^}]*)\}|"
                               r"typedef struct (?P<struct>\w+) \{(?P<fields>[^}]*)\}|"
                               r"SHK_API (?P<result>[^;(]*?)(?P<name>\w+)\((?P<arguments>[^;]*)\);")
        for one in statement.finditer(text):
            if one["enum"] or one["nameless"]:
                self.enums.setdefault(one["enum"] or "", {}).update(constants(one["constants"] or one["others"]))
            elif one["struct"]:
                fields = [pair for line in one["fields"].split(";") if line.strip() for pair in self.declared(line.strip())]
                self.structs[one["struct"]] = type(one["struct"], (ctypes.Structure,), {"_fields_": fields})
            else:
                listed = [] if one["arguments"] == "void" else split(one["arguments"])
                self.functions[one["name"]] = (self.plain(one["result"].strip()), [self.declared(text)[0][1] for text in listed])

    def base(self, name: str) -> Any:
        if name in self.enums:
            return ctypes.c_int
        return self.structs.get(name) or BASE.get(name)

    def typed(self, name: str, stars: str, count: str, is_const: bool) -> Any:
        """A `const char *` is a string; every other pointer is an address."""
        if stars:
            return ctypes.c_char_p if is_const and name == "char" and stars == "*" else ctypes.c_void_p
        return self.base(name) * int(count) if count else self.base(name)

    def plain(self, text: str) -> Any:
        is_const, name, rest = words(text)
        return self.typed(name, rest.replace(" ", ""), "", is_const)

    def declared(self, text: str) -> List[Tuple[str, Any]]:
        """`const char *a, *b`, `char message[512]`, `int (*f)(void *, size_t)` as [(name, type)]."""
        callback = CALLBACK.match(text)
        if callback:
            arguments = [self.declared(one)[0][1] for one in split(callback[3])]
            # a string that comes with its length may hold zeros: its address is what is wanted
            arguments = [ctypes.c_void_p if one is ctypes.c_char_p else one for one in arguments]
            return [(callback[2], ctypes.CFUNCTYPE(self.base(callback[1]), *arguments))]
        is_const, name, rest = words(text)
        out = []
        for declarator in rest.split(","):
            found = DECLARATOR.match(re.sub(r"\bconst\b", "", declarator).strip())
            if not found:
                raise ValueError(f"sparkhawk.h: cannot read '{text}'")
            out.append((found[2], self.typed(name, found[1].replace(" ", ""), found[3], is_const)))
        return out


def words(text: str) -> Tuple[bool, str, str]:
    """const or not, the name of the type, and what follows it."""
    found = re.match(r"^(const )?(?:struct )?(\w+)\s*(.*)$", text)
    if not found:
        raise ValueError(f"sparkhawk.h: cannot read '{text}'")
    return bool(found[1]), found[2], found[3]


def split(arguments: str) -> List[str]:
    """At the commas that are not within parentheses."""
    return [one.strip() for one in re.split(r",(?![^(]*\))", arguments)]


def constants(text: str) -> Dict[str, int]:
    out: Dict[str, int] = {}
    following = 0
    for one in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = one.partition("=")
        following = int(value, 0) if value else following
        out[name.strip()] = following
        following += 1
    return out
