"""The other side of tests/interop.rs: redis-py and orjson, told what to do line by line.

    peer.py PORT

Reads one JSON request a line from standard input and answers one JSON line. The transport is
Python's own json module, so that orjson is only ever what is compared.

    {"do": "call", "method": "set", "args": [...], "kwargs": {...}}    any method of redis.Redis
    {"do": "write", "key": k, "value": v, "ex": seconds or null}       SET of orjson.dumps(v)
    {"do": "read", "key": k}                                           orjson.loads(GET)
    {"do": "lock", "name": n, "timeout": s, "wait": s}                 redis.lock.Lock.acquire
    {"do": "unlock", "name": n}                                        ... release
    {"do": "owned", "name": n}                                         ... owned
    {"do": "recipe", "name": f, "args": [...]}                         a function of docs/interop.md

Bytes are {"$bytes": hex}; what JSON lacks is {"$decimal": text}, {"$seconds": n}, {"$time": unix},
{"$naive": unix}, {"$uuid": text}, {"$set": [...]}, {"$nan": 0}.
"""

import datetime
import decimal
import json
import pathlib
import re
import sys
import uuid

import redis

import wire

EPOCH = datetime.datetime(1970, 1, 1)
KINDS = {
    "$bytes": bytes.fromhex,
    "$decimal": decimal.Decimal,
    "$seconds": lambda seconds: datetime.timedelta(seconds=seconds),
    "$time": lambda unix: (EPOCH + datetime.timedelta(seconds=unix)).replace(tzinfo=datetime.timezone.utc),
    "$naive": lambda unix: EPOCH + datetime.timedelta(seconds=unix),
    "$uuid": uuid.UUID,
    "$set": set,
    "$nan": lambda _: float("nan"),
}


def build(pairs):
    """A Python object for what JSON lacks."""
    if len(pairs) == 1 and pairs[0][0] in KINDS:
        kind, content = pairs[0]
        return KINDS[kind](content)
    return dict(pairs)


def plain(result):
    """An answer of redis-py as JSON."""
    if isinstance(result, bytes):
        return {"$bytes": result.hex()}
    if isinstance(result, (list, tuple, set)):
        return [plain(one) for one in result]
    if isinstance(result, dict):
        return [[plain(key), plain(value)] for key, value in result.items()]
    return result


def recipes():
    """The functions that the documentation gives to its readers."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "interop.md").read_text()
    found = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, found)
    return found


def main():
    server = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]))
    locks = {}
    documented = recipes()

    def answer(request):
        match request:
            case {"do": "call", "method": method, **rest}:
                return plain(getattr(server, method)(*rest.get("args", []), **rest.get("kwargs", {})))
            case {"do": "write", "key": key, "value": value, **rest}:
                return server.set(key, wire.dumps(value), ex=rest.get("ex"))
            case {"do": "read", "key": key}:
                return wire.loads(server.get(key))
            case {"do": "lock", "name": name, "timeout": timeout, "wait": wait}:
                locks[name] = server.lock(name, timeout=timeout, blocking_timeout=wait, sleep=0.01)
                return locks[name].acquire()
            case {"do": "unlock", "name": name}:
                locks[name].release()
                return True
            case {"do": "owned", "name": name}:
                return locks[name].owned()
            case {"do": "recipe", "name": "shown", "args": [key]}:
                return documented["shown"](key)
            case {"do": "recipe", "name": name, "args": args}:
                return documented[name](server, *args)

    for line in sys.stdin:
        try:
            reply = {"ok": answer(json.loads(line, object_pairs_hook=build))}
        except redis.RedisError as error:
            reply = {"error": type(error).__name__}
        print(json.dumps(reply), flush=True)


main()
