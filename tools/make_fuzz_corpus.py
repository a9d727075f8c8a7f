#!/usr/bin/env python3
"""Makes the seed files of the fuzz targets for model files and requests: tests/fuzz/{corpus,refused}/{gguf,safetensors*,request}/.

    tools/make_fuzz_corpus.py

Files in corpus are well-formed, files in refused are each wrong in the one way that their name says."""
import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests/fuzz"
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def text(s):
    s = s.encode() if isinstance(s, str) else s
    return u64(len(s)) + s


def scalar(type, v):
    return text(v) if type == STRING else struct.pack("<" + FORMATS[type], v)


def meta(key, type, v):
    return text(key) + u32(type) + scalar(type, v)


def array(key, type, values, n=None):
    return text(key) + u32(ARRAY) + u32(type) + u64(len(values) if n is None else n) + b"".join(scalar(type, v) for v in values)


def tensor(name, dims, type, offset, n_dims=None):
    return text(name) + u32(len(dims) if n_dims is None else n_dims) + b"".join(map(u64, dims)) + u32(type) + u64(offset)


def gguf(metas=(), tensors=(), data=b"", version=3, n_metas=None, n_tensors=None, magic=b"GGUF", alignment=32):
    head = magic + u32(version) + u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(metas) if n_metas is None else n_metas) + b"".join(metas) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data


NAME = meta("general.architecture", STRING, "test")
ONE = tensor("one", [4], 0, 0)
DATA = bytes(range(16))

GGUF_GOOD = {
    "empty": gguf(),
    "vocabulary": gguf([NAME, array("tokens", STRING, ["a", "", "bc"]), array("scores", F32, [0.5, -1, 2]),
                        array("types", I32, [1, 2, 3])]),
    "values": gguf([meta(f"v{type}", type, 1) for type in FORMATS] + [meta("s", STRING, "x")]),
    "empty-arrays": gguf([array("a", U64, []), array("b", STRING, [])]),
    "tensors": gguf([NAME], [ONE, tensor("two", [32, 2], 8, 32), tensor("k", [256], 12, 128)], DATA + bytes(16 + 96 + 144)),
    "scalar-and-empty": gguf([], [tensor("scalar", [], 0, 0), tensor("empty", [0, 5], 0, 32)], bytes(32)),
    "version-2": gguf([NAME], [ONE], DATA, version=2),
    "alignment": gguf([meta("general.alignment", U32, 256)], [ONE, tensor("two", [4], 0, 256)], bytes(256) + DATA, alignment=256),
}

GGUF_BAD = {
    "nothing": b"",
    "magic-only": b"GGUF",
    "other-magic": gguf([NAME], magic=b"GGUX"),
    "version-1": gguf([NAME], version=1),
    "version-4": gguf([NAME], version=4),
    "big-endian": gguf([NAME], version=3 << 24),
    "counts-cut": gguf()[:20],
    "tensor-count-huge": gguf([NAME], [ONE], DATA, n_tensors=2**63),
    "tensor-count-too-large": gguf([NAME], [ONE], DATA, n_tensors=2),
    "meta-count-huge": gguf([NAME], n_metas=2**64 - 1),
    "meta-count-too-large": gguf([NAME], n_metas=2),
    "key-empty": gguf([meta("", U32, 1)]),
    "key-with-zero": gguf([meta(b"a\0b", U32, 1)]),
    "key-with-escape": gguf([meta("a\x1b[2J", U32, 1)]),
    "key-twice": gguf([meta("a", U32, 1), meta("b", U32, 1), meta("a", U32, 1)]),
    "key-length-huge": gguf([u64(2**64 - 1) + b"a" + u32(U32) + u32(1)]),
    "key-too-long": gguf([meta("a" * 65536, U32, 1)]),
    "type-unknown": gguf([text("a") + u32(13) + u32(1)]),
    "string-length-huge": gguf([text("a") + u32(STRING) + u64(2**63) + b"xyz"]),
    "value-cut": gguf([meta("a", U64, 1)])[:42],
    "array-type-unknown": gguf([text("a") + u32(ARRAY) + u32(99) + u64(1) + u64(1)]),
    "array-of-arrays": gguf([text("a") + u32(ARRAY) + u32(ARRAY) + u64(1) + u32(U32) + u64(1) + u32(1)]),
    "array-count-huge": gguf([array("a", U32, [1], n=2**62)]),
    "array-count-overflow": gguf([array("a", F64, [1], n=2**61 + 1)]),
    "array-of-strings-count-huge": gguf([array("a", STRING, ["x"], n=2**64 - 1)]),
    "array-of-strings-cut": gguf([text("a") + u32(ARRAY) + u32(STRING) + u64(2) + text("x") + u64(2**40)]),
    "alignment-zero": gguf([meta("general.alignment", U32, 0)]),
    "alignment-odd": gguf([meta("general.alignment", U32, 24)]),
    "alignment-huge": gguf([meta("general.alignment", U32, 2**31)]),
    "alignment-negative": gguf([meta("general.alignment", I32, -32)]),
    "alignment-text": gguf([meta("general.alignment", STRING, "32")]),
    "tensor-without-name": gguf([], [tensor("", [4], 0, 0)], DATA),
    "tensor-name-with-newline": gguf([], [tensor("a\nb", [4], 0, 0)], DATA),
    "tensor-name-with-zero": gguf([], [tensor(b"a\0b", [4], 0, 0)], DATA),
    "tensor-name-too-long": gguf([], [tensor("a" * 1024, [4], 0, 0)], DATA),
    "tensor-twice": gguf([], [ONE, tensor("one", [4], 0, 32)], bytes(48)),
    "tensor-with-5-dimensions": gguf([], [tensor("a", [1, 1, 1, 1, 4], 0, 0)], DATA),
    "tensor-with-huge-dimensions": gguf([], [tensor("a", [4], 0, 0, n_dims=2**32 - 1)], DATA),
    "tensor-size-overflow": gguf([], [tensor("a", [2**32, 2**32], 24, 0)], DATA),
    "tensor-bytes-overflow": gguf([], [tensor("a", [2**62], 0, 0)], DATA),
    "tensor-type-unknown": gguf([], [tensor("a", [4], 31, 0)], DATA),
    "tensor-type-huge": gguf([], [tensor("a", [4], 2**32 - 1, 0)], DATA),
    "tensor-type-removed": gguf([], [tensor("a", [32], 4, 0)], bytes(32)),
    "tensor-not-in-blocks": gguf([], [tensor("a", [33], 8, 0)], bytes(68)),
    "tensor-offset-unaligned": gguf([], [tensor("a", [4], 0, 16)], bytes(32)),
    "tensor-offset-past-the-end": gguf([], [tensor("a", [4], 0, 32)], bytes(32)),
    "tensor-offset-huge": gguf([], [tensor("a", [4], 0, 2**64 - 32)], DATA),
    "tensor-past-the-end": gguf([], [tensor("a", [5], 0, 0)], DATA),
    "tensor-without-data": gguf([], [ONE]),
    "tensors-overlap": gguf([], [tensor("a", [9], 0, 0), tensor("b", [4], 0, 32)], bytes(48)),
    "tensors-at-one-place": gguf([], [tensor("a", [4], 0, 0), tensor("b", [4], 0, 0)], DATA),
    "tensor-list-cut": gguf([], [ONE])[:-12],
}


def safetensors(header, data=b"", n=None):
    if not isinstance(header, (str, bytes)):
        header = json.dumps(header)
    header = header.encode() if isinstance(header, str) else header
    return u64(len(header) if n is None else n) + header + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


SAFETENSORS_GOOD = {
    "empty": safetensors({}),
    "metadata": safetensors({"__metadata__": {"format": "pt"}, "a": entry()}, DATA),
    "types": safetensors({name: entry(name, [2], [16 * i, 16 * i + 2 * size]) for i, (name, size) in enumerate(
        {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1}.items())}, bytes(128)),
    "shapes": safetensors({"scalar": entry("F32", [], [0, 4]), "none": entry("F32", [0, 3], [4, 4]),
                           "four": entry("I8", [1, 2, 3, 2], [4, 16])}, DATA),
    "padded": safetensors(json.dumps({"grüße": entry()}) + "     ", DATA),
    "another-field": safetensors({"a": entry(note=[{}])}, DATA),
}

SAFETENSORS_BAD = {
    "nothing": b"",
    "length-cut": b"\2\0\0\0\0\0\0",
    "length-only": u64(2),
    "header-cut": safetensors({"a": entry()}, b"", n=500),
    "header-length-huge": safetensors({"a": entry()}, DATA, n=2**64 - 1),
    "header-length-negative": safetensors({"a": entry()}, DATA, n=2**63),
    "header-empty": safetensors(""),
    "header-not-json": safetensors("{'a': 1}"),
    "header-array": safetensors([]),
    "header-number": safetensors("1"),
    "header-deep": safetensors('{"a":' + "[" * 5000 + "]" * 5000 + "}"),
    "header-unclosed": safetensors('{"a":' * 3000),
    "header-not-utf8": safetensors(b'{"\xff":1}'),
    "header-with-rest": safetensors("{} x"),
    "name-empty": safetensors({"": entry()}, DATA),
    "name-with-zero": safetensors({"a\0b": entry()}, DATA),
    "name-with-escape": safetensors({"a\x1b[2J": entry()}, DATA),
    "name-twice": safetensors('{"a":%s,"a":%s}' % (json.dumps(entry()), json.dumps(entry(offsets=(16, 32)))), bytes(32)),
    "entry-number": safetensors({"a": 1}, DATA),
    "dtype-missing": safetensors({"a": {"shape": [4], "data_offsets": [0, 16]}}, DATA),
    "dtype-number": safetensors({"a": entry(32)}, DATA),
    "dtype-unknown": safetensors({"a": entry("Q9")}, DATA),
    "dtype-bool": safetensors({"a": entry("BOOL", [16])}, DATA),
    "shape-missing": safetensors({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, DATA),
    "shape-number": safetensors({"a": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}}, DATA),
    "shape-negative": safetensors({"a": entry(shape=[-4])}, DATA),
    "shape-fraction": safetensors({"a": entry(shape=[4.0])}, DATA),
    "shape-text": safetensors({"a": entry(shape=["4"])}, DATA),
    "shape-with-5-dimensions": safetensors({"a": entry(shape=[1, 1, 1, 1, 4])}, DATA),
    "shape-overflow": safetensors({"a": entry("I8", [2**32, 2**32], [0, 0])}, DATA),
    "shape-bytes-overflow": safetensors({"a": entry(shape=[2**62], offsets=[0, 0])}, DATA),
    "shape-past-64-bits": safetensors({"a": entry(shape=[2**64 + 4])}, DATA),
    "offsets-missing": safetensors({"a": {"dtype": "F32", "shape": [4]}}, DATA),
    "offsets-three": safetensors({"a": entry(offsets=[0, 16, 16])}, DATA),
    "offsets-text": safetensors({"a": entry(offsets=["0", "16"])}, DATA),
    "offsets-negative": safetensors({"a": entry(offsets=[-16, 0])}, DATA),
    "offsets-reversed": safetensors({"a": entry(offsets=[16, 0])}, DATA),
    "offsets-huge": safetensors({"a": entry(offsets=[2**63 - 17, 2**63 - 1])}, DATA),
    "offsets-past-the-end": safetensors({"a": entry(offsets=[4, 20])}, DATA),
    "size-differs": safetensors({"a": entry(shape=[3])}, DATA),
    "overlap": safetensors({"a": entry(), "b": entry(offsets=[12, 28])}, bytes(28)),
    "at-one-place": safetensors({"a": entry(), "b": entry()}, DATA),
}

def request(where, **fields):
    return where.encode() + json.dumps(fields).encode()


HI = {"messages": [{"role": "user", "content": "Hi"}]}
REQUESTS_GOOD = {
    "chat": request("c", model="m", **HI),
    "chat-roles": request("c", messages=[{"role": role, "content": role} for role in ("developer", "system", "user", "assistant")]),
    "chat-parts": request("c", messages=[{"role": "user", "content": [{"type": "text", "text": "a"},
                                                                      {"type": "text", "text": "b"}]}]),
    "chat-fields": request("c", temperature=0.5, top_p=0.9, min_p=0.1, top_k=40, presence_penalty=-1, frequency_penalty=2,
                           repeat_penalty=1.1, repeat_last_n=9, n=2, seed=-7, max_completion_tokens=5, logprobs=True,
                           top_logprobs=20,
                           stop=["a", "b"], logit_bias={"5": -100, "6": 1.5}, stats=True, stream=True,
                           stream_options={"include_usage": True}, response_format={"type": "text"}, **HI),
    "chat-nothing": request("c", tools=[], tool_choice="none", temperature=None, stop=None, response_format=None, **HI),
    "chat-object": request("c", response_format={"type": "json_object"}, **HI),
    "chat-schema": request("c", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}}, **HI),
    "completion": request("p", prompt="once", max_tokens=3, logprobs=2, stop="."),
    "completion-ids": request("p", prompt=[1, 2, 3]),
    "completion-several": request("p", prompt=["a", "b"]),
    "completion-several-ids": request("p", prompt=[[1], [2, 3]], best_of=1, echo=False),
    "embedding": request("e", input=["a", [1, 2]], encoding_format="base64"),
    "tokenize": request("t", text="a b", special=True),
    "detokenize": request("d", tokens=[1, 2]),
}
REQUESTS_BAD = {
    "empty": b"c",
    "no-json": b"cnonsense",
    "cut": b'c{"messages": [{"role": "us',
    "no-object": b"c[1]",
    "twice": b'c{"messages": 1, "messages": 2}',
    "deep": b"c" + b"[" * 100 + b"]" * 100,
    "zero-character": b'c{"messages": [{"role": "user", "content": "a\\u0000b"}]}',
    "not-utf8": b'c{"messages": [{"role": "user", "content": "\xff"}]}',
    "no-messages": request("c", messages=[]),
    "role": request("c", messages=[{"role": "tool", "content": "x"}]),
    "content": request("c", messages=[{"role": "user"}]),
    "image": request("c", messages=[{"role": "user", "content": [{"type": "image_url",
                                                                  "image_url": {"url": "file:///etc/passwd"}}]}]),
    "part-without-text": request("c", messages=[{"role": "user", "content": [{"type": "text"}]}]),
    "temperature": request("c", temperature=2.1, **HI),
    "temperature-text": request("c", temperature="hot", **HI),
    "temperature-huge": b'c{"temperature": 1e999, "messages": []}',
    "top-k": request("c", top_k=1.5, **HI),
    "n": request("c", n=9, **HI),
    "max-tokens": request("c", max_tokens=0, **HI),
    "stop-empty": request("c", stop="", **HI),
    "stop-many": request("c", stop=["x"] * 17, **HI),
    "bias-key": request("c", logit_bias={"x": 1}, **HI),
    "bias-value": request("c", logit_bias={"1": 101}, **HI),
    "stream-options": request("c", stream_options={}, **HI),
    "top-logprobs": request("c", top_logprobs=3, **HI),
    "tools": request("c", tools=[{"type": "function"}], **HI),
    "format": request("c", response_format={"type": "xml"}, **HI),
    "format-without-schema": request("c", response_format={"type": "json_schema"}, **HI),
    "prompt-missing": request("p"),
    "prompt-number": request("p", prompt=7),
    "prompt-negative": request("p", prompt=[-1]),
    "prompt-large": request("p", prompt=[2**31]),
    "prompt-mixed": request("p", prompt=[1, "a"]),
    "echo": request("p", prompt="a", echo=True),
    "encoding": request("e", input="a", encoding_format="hex"),
}


def main():
    headers = {name: data[8:] for name, data in {**SAFETENSORS_GOOD, **SAFETENSORS_BAD}.items()}
    for folder, suffix, files in (("corpus/gguf", ".gguf", GGUF_GOOD), ("refused/gguf", ".gguf", GGUF_BAD),
                                  ("corpus/safetensors", ".safetensors", SAFETENSORS_GOOD),
                                  ("refused/safetensors", ".safetensors", SAFETENSORS_BAD),
                                  ("corpus/safetensors_header", ".bin", headers),
                                  ("corpus/request", ".bin", REQUESTS_GOOD), ("refused/request", ".bin", REQUESTS_BAD)):
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (ROOT / folder / (name + suffix)).write_bytes(data)


if __name__ == "__main__":
    main()
