"""The other side of tests/interop.rs: redis-py and orjson, told what to do line by line.

    peer.py PORT [cluster]

Reads one JSON request a line from standard input and answers one JSON line. The transport is
Python's own json module, so that orjson is only ever what is compared.

    {"do": "call", "method": "set", "args": [...], "kwargs": {...}}    any method of redis.Redis
    {"do": "write", "key": k, "value": v, "ex": seconds or null}       SET of orjson.dumps(v)
    {"do": "read", "key": k}                                           orjson.loads(GET)
    {"do": "lock", "name": n, "timeout": s, "wait": s}                 redis.lock.Lock.acquire
    {"do": "unlock", "name": n}                                        ... release
    {"do": "owned", "name": n}                                         ... owned
    {"do": "prolong", "name": n, "by": s or null}                      ... extend, to so many seconds, or reacquire
    {"do": "recipe", "name": f, "args": [...]}                         a function of docs/interop.md
    {"do": "beside", "kind": k, "keys": [...]}                         its beside of each
    {"do": "held", "key": k, "lease": s}                               its get_or_load, loading what it is told:
                                                                       see held()
    {"do": "counted", "key": k, "value": v}                            its get_or_load, loading v and counting

Bytes are {"$bytes": hex}; what JSON lacks is {"$decimal": text}, {"$seconds": n}, {"$time": unix},
{"$naive": unix}, {"$uuid": text}, {"$set": [...]}, {"$nan": 0}.
"""

import datetime
import decimal
import json
import sys
import uuid

import redis

import wire
from recipes import documented

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


def say(message):
    print(json.dumps(message), flush=True)


def hear():
    """The next request; none at the end."""
    line = sys.stdin.readline()
    return json.loads(line, object_pairs_hook=build) if line else None


class Telling:
    """A client that tells whenever it could not take what it wanted."""

    def set(self, *args, **kwargs):
        taken = super().set(*args, **kwargs)
        if not taken:
            say({"ok": "waiting"})
        return taken


def held(get_or_load, server, key, lease):
    """Says "waiting" while another loads, and "loading" when it loads itself: the next line is what it loads, or no
    "value" if it fails. The last line is the value, as any answer."""

    def load():
        say({"ok": "loading"})
        told = hear()
        if "value" not in told:
            raise LookupError
        return told["value"]

    return {"value": get_or_load(server, key, 60, load, lease)}


def main():
    here = {"host": "127.0.0.1", "port": int(sys.argv[1])}
    kind = redis.RedisCluster if sys.argv[2:] == ["cluster"] else redis.Redis
    server, waiting = kind(**here), type("Waiting", (Telling, kind), {})(**here)
    locks = {}
    recipes = documented()

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
            case {"do": "prolong", "name": name, "by": by}:
                return locks[name].extend(by, replace_ttl=True) if by else locks[name].reacquire()
            case {"do": "recipe", "name": "shown", "args": [key]}:
                return recipes["shown"](key)
            case {"do": "recipe", "name": name, "args": args}:
                return recipes[name](server, *args)
            case {"do": "beside", "kind": kind, "keys": keys}:
                return [plain(recipes["beside"](kind.encode(), key)) for key in keys]
            case {"do": "held", "key": key, "lease": lease}:
                return held(recipes["get_or_load"], waiting, key, lease)
            case {"do": "counted", "key": key, "value": value}:

                def load():
                    server.incr(f"loads:{key}")
                    return value

                return recipes["get_or_load"](server, key, 60, load, poll=0.001)

    while (request := hear()) is not None:
        try:
            say({"ok": answer(request)})
        except (redis.RedisError, redis.exceptions.RedisClusterException, LookupError) as error:
            say({"error": type(error).__name__})


main()
