"""The wire format of docs/interop.md in Python: redis-py for plain values, orjson for documents."""

import datetime
import decimal

import orjson

# Whole seconds, `Z` for UTC, times without a zone taken as UTC, text for keys that are none.
OPTIONS = (
    orjson.OPT_NAIVE_UTC
    | orjson.OPT_OMIT_MICROSECONDS
    | orjson.OPT_UTC_Z
    | orjson.OPT_NON_STR_KEYS
)


def default(value):
    """What orjson does not write by itself."""
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return None
        places = -value.as_tuple().exponent
        if abs(value) < 10**15 and places <= 6:
            return float(value)
        return format(value, "f")
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="ignore")
    raise TypeError(f"no wire format for {type(value).__name__}")


def dumps(value) -> bytes:
    return orjson.dumps(value, default=default, option=OPTIONS)


loads = orjson.loads
