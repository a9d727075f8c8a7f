#!/usr/bin/env python3
"""Makes tests/golden/quants.gguf: what the gguf package reads out of random blocks of every type, and metadata of every kind.

    python3 -m venv oracle && oracle/bin/pip install gguf==0.19.0
    oracle/bin/python tools/make_quant_fixture.py tests/golden/quants.gguf

For each block type T there are tensors T, the blocks, and T.f32, their values. All bits of a block are random but for its f16
scales, which are random numbers of either sign, one of them subnormal."""
import sys

import gguf
import numpy
from gguf import GGMLQuantizationType as Type

# bytes at which a block has its f16 scales
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.IQ4_NL: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}


def blocks(random, type):
    values, size = gguf.GGML_QUANT_SIZES[type]
    n = max(3, 128 // values)
    data = random.integers(0, 256, (n, size), dtype=numpy.uint8)
    for at in SCALES[type]:
        scales = (random.standard_normal(n) * 0.01).astype(numpy.float16)
        scales[0] = numpy.float16(3e-6)
        data[:, at:at + 2] = scales.view(numpy.uint8).reshape(n, 2)
    return data.reshape(1, n * size)


def main(path):
    random = numpy.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "quants")
    for kind in ("uint8", "uint16", "uint32", "uint64"):
        getattr(writer, "add_" + kind)(kind, numpy.iinfo(kind).max // 3)
    for kind in ("int8", "int16", "int32", "int64"):
        getattr(writer, "add_" + kind)(kind, numpy.iinfo(kind).min // 3)
    writer.add_float32("float32", 0.1)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "snow ☃")
    writer.add_array("strings", ["", "a", "bc", "☃"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -0.25])
    writer.add_array("bools", [True, False, True])
    for type in SCALES:
        data = blocks(random, type)
        writer.add_tensor(type.name.lower(), data, raw_dtype=type)
        writer.add_tensor(type.name.lower() + ".f32", gguf.quants.dequantize(data, type).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
