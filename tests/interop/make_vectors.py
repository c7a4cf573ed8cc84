"""Writes vectors.json: what redis-py and orjson write, and what orjson reads.

    .venv/bin/python tests/interop/make_vectors.py [--check]

The same versions (requirements.txt) write the same file. Bytes are in hex, floats are the hex of
their 64 bits, so that no JSON reader stands between a vector and its meaning.
"""

import datetime
import decimal
import json
import pathlib
import random
import struct
import sys
import uuid

import orjson
from redis._parsers import Encoder

from recipes import documented
from wire import dumps, loads

plain = Encoder("utf-8", "strict", False).encode
chance = random.Random(20250131)


def bits(value: float) -> str:
    return struct.pack(">d", value).hex()


def from_bits(pattern: int) -> float:
    return struct.unpack(">d", pattern.to_bytes(8, "big"))[0]


def floats():
    yield from (0.0, -0.0, 1.0, -1.0, 0.1, 0.1 + 0.2, 1 / 3, 123.456, 5e-324, 2.2250738585072014e-308)
    yield from (1.7976931348623157e308, -1.7976931348623157e308, 2.0**53, 2.0**53 + 2, 2.0**64)
    yield from (float(f"{digits}e{power}") for power in range(-25, 26) for digits in ("1", "-1.5", "9.999"))
    for _ in range(400):
        value = from_bits(chance.getrandbits(64))
        if value == value and abs(value) != float("inf"):
            yield value


INTEGERS = [0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]

TEXTS = [
    "", "plain", "Grüezi", "日本語テキスト", "emoji 🦀 \U0001f468\u200d\U0001f469\u200d\U0001f467", "\u202eright to left",
    "quote \" backslash \\ slash /", "line\nfeed\r\n tab\t", "\x00\x01\x1f\x7f", "\b\f", "\u2028\u2029", "\ufeff",
    "\ufffd\uffff", "e\u0301 is not é", "</script>", "a" * 1000,
]

BYTES = [
    b"", b"plain", "Grüezi".encode(), b"\xff", b"a\xffb\xfec", b"\xe2\x82A", b"\xe2\x82", b"\xf0\x9f\xa6", b"\xf0\x80\x80\x80x",
    b"\xed\xa0\x80x", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80y", b"\x80\x80z", "🦀".encode() + b"\xf0",
]

DECIMALS = [
    "0", "0.00", "1", "-1", "10", "1.5", "1.50", "0.1", "-0.3", "19.99", "1234567.89", "0.000001", "-0.000001",
    "0.0000001", "0.0000010", "1.1234567", "999999999999999", "-999999999999999", "1000000000000000", "-1000000000000000",
    "999999999.999999", "123456789.123456", "123456789012345.123456", "99999999999999.9", "1000000000000000.5",
    "12345678901234567890", "0.1234567890123456789012345678", "79228162514264337593543950335",
] + [str(decimal.Decimal(chance.randrange(-10**15, 10**15)).scaleb(-chance.randrange(0, 8))) for _ in range(200)]

SPANS = [(0, 0), (0, 1), (1, 0), (60, 0), (86_399, 999_999), (0, 100_000), (1, 500_000), (12_345, 678_901)] + [
    (chance.randrange(0, 10**chance.randrange(1, 10)), chance.randrange(0, 10**6)) for _ in range(200)
]

TIMES = [0, 1, -1, 951_782_400, 1_738_312_200, 253_402_300_799, -62_135_596_800, 4_102_444_800, -2_208_988_800] + [
    chance.randrange(-62_135_596_800, 253_402_300_799) for _ in range(100)
]

DOCUMENTS = [
    {}, [], {"a": {}}, {"a": []}, [[]], [{}], {"": None}, [None, True, False], {"b": 1, "a": 2, "10": 3, "9": 4},
    {"name": "Zoë 🦀", "tags": ["a", "b"], "nested": {"list": [1, [2, [3, {"deep": "tief"}]]]}},
    {"int": 2**63 - 1, "uint": 2**64 - 1, "negative": -(2**63), "float": 1.0, "small": 1e-7, "large": 1e300, "third": 1 / 3},
    {"nan": float("nan"), "inf": float("inf"), "minus": float("-inf")}, {text: text for text in TEXTS}, list(range(1000)),
    {"user": {"id": 7, "email": "ada@example.com", "balance": 12.5, "roles": ["admin"], "address": None}},
]

KEYS = [0, -5, 2**64 - 1, True, False, "text", ""]

# What a reader may meet: orjson's value, or that it refuses.
EDGES = [
    "9007199254740993", "18446744073709551615", "18446744073709551616", "-9223372036854775808", "-9223372036854775809",
    "123456789012345678901234567890", "9" * 400, "1e400", "-1e400", "1e308", "1e-400", "0.1", "-0.0", "1E5", "1e+5", "1.0",
    "0.30000000000000004", "9007199254740993.0", "2.2250738585072011e-308", "179769313486231580793728971405301e276",
    '{"a":1,"b":2,"a":3}', '{"a":{"x":1},"a":{"y":2}}', '"\\ud800"', '"\\udc00"', '"\\ud83e\\udd80"', '"\\u0000"',
    "\ufeff1", "\ufeff{}", "1 2", "{} x", "[1,]", "{,}", "[1", '{"a"', '"abc', "", " ", "nul", "NaN", "Infinity",
    "01", "+1", ".5", "1.", "'a'", "\"a\nb\"", " [ 1 , 2 ] ", "[" * 127 + "]" * 127,
]

# Keys of leases: plain, with hash tags, with braces that are none, and what is no text.
LEASED = [
    b"k", b"user:7", b"123456789", b" ", b"\x00", b"\xff\xfe", b"%7B", b"a:b:c", "Zoë:🦀".encode(), b"x" * 300, b"larder:lease:k",
    b"{t}", b"a{t}b", b"{t}{u}", b"{{t}}", b"{{}", b"{{}}", b"{}}", b"{t}}", b"}{t}", b"a}b{c}d", b"{t", b"{larder:lease:{k}:x}",
    b"{", b"}", b"{}", b"{}{a}", b"{}a{b}", b"a{b", b"a}b", b"}{", b"}{}", b"a{}b", b"{}x", b"x}", b"}}", b"{{", b"a}b{c", b"user:{}:7",
    b"{\xff}", b"\xff{\x00}\xfe", b"\xf0\x9f{", b"{\xf0\x9f", "🦀{🦀}".encode(), "}🦀{".encode(), b"{ }", b"{\r\n}", b"\r\n}",
    b"{" + b"t" * 300 + b"}" + b"k" * 300, b"{" * 300, b"}" * 300, b"{}" * 150, b"larder:lease:{k}", b"larder:lease:{0}:{}",
]


def edge(text: str):
    try:
        value = loads(text)
    except orjson.JSONDecodeError:
        return {"json": text.encode().hex(), "refused": True}
    found = {"json": text.encode().hex(), "again": dumps(value).hex()}
    if isinstance(value, float):
        found["bits"] = bits(value)
    return found


def seconds_of(second: int, micros: int, zone):
    start = datetime.datetime(1970, 1, 1, tzinfo=zone)
    return start + datetime.timedelta(seconds=second, microseconds=micros)


def main():
    utc = datetime.timezone.utc
    lease_key = documented()["lease_key"]
    vectors = {
        "floats": [{"bits": bits(v), "plain": plain(v).decode(), "json": dumps(v).decode()} for v in floats()],
        "integers": [{"value": str(v), "plain": plain(v).decode(), "json": dumps(v).decode()} for v in INTEGERS],
        "texts": [{"plain": plain(v).hex(), "json": dumps(v).hex()} for v in TEXTS],
        "bytes": [{"plain": plain(v).hex(), "json": dumps(v).hex()} for v in BYTES],
        "decimals": [{"value": v, "json": dumps(decimal.Decimal(v)).decode()} for v in DECIMALS],
        "durations": [
            {"secs": s, "micros": m, "json": dumps(datetime.timedelta(seconds=s, microseconds=m)).decode()} for s, m in SPANS
        ],
        "times": [
            {
                "secs": s,
                "micros": m,
                "utc": dumps(seconds_of(s, m, utc)).decode(),
                "naive": dumps(seconds_of(s, m, None)).decode(),
            }
            for s in TIMES
            for m in (0, 999_999)
        ],
        "uuids": [{"value": u.hex, "json": dumps(u).decode()} for u in (uuid.UUID(int=chance.getrandbits(128)) for _ in range(20))],
        "sets": [{"value": v, "json": dumps(set(v)).decode()} for v in ([], [1, 2, 3], [-7, 2**53 + 1])],
        "keys": [{"json": dumps({k: 1}).decode(), "value": k} for k in KEYS],
        "documents": [dumps(v).hex() for v in DOCUMENTS],
        "edges": [edge(text) for text in EDGES],
        "leases": [{"key": key.hex(), "lease": lease_key(key).hex()} for key in LEASED],
    }
    target = pathlib.Path(__file__).with_name("vectors.json")
    lines = (
        f"{json.dumps(kind)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]" for kind, rows in vectors.items()
    )
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if "--check" not in sys.argv:
        target.write_text(text)
    elif target.read_text() != text:
        sys.exit("vectors.json is not what these versions write: make it anew and look at the difference")
    print(", ".join(f"{len(rows)} {kind}" for kind, rows in vectors.items()))


if __name__ == "__main__":
    main()
