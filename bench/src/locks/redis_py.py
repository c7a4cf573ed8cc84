"""The worker of `larder-bench locks` for redis-py's Lock: takes the orders that serve.rs takes.

    redis_py.py PORT TASKS NUMBER
"""

import sys
import threading
import time

import redis

PORT, TASKS, NUMBER = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
CLIENT = redis.Redis(port=PORT)
# As it comes: it sleeps for 0.1 s between two tries, and its token belongs to the thread.
LOCK = CLIENT.lock("redis-py", timeout=10)


def say(text):
    print(text, flush=True)


def take():
    if not LOCK.acquire():
        raise SystemExit("the lock was not taken")


def work():
    """A number is read, and the next one written."""
    CLIENT.set(NUMBER, int(CLIENT.get(NUMBER) or 0) + 1)


def alone(span):
    begun = time.monotonic_ns()
    cycles = 0
    while time.monotonic_ns() < begun + span:
        take()
        LOCK.release()
        cycles += 1
    say(f"{cycles} {time.monotonic_ns() - begun}")


def contend(start, until):
    def one(log):
        time.sleep(max(0, start - time.monotonic_ns()) / 1e9)
        while True:
            begun = time.monotonic_ns()
            take()
            taken = time.monotonic_ns()
            work()
            given = time.monotonic_ns()
            LOCK.release()
            log.append(f"{begun} {taken} {given}")
            if time.monotonic_ns() >= until:
                return

    logs = [[] for _ in range(TASKS)]
    threads = [threading.Thread(target=one, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(";".join(" ".join(log) for log in logs))


CLIENT.ping()
say("ready")
for line in sys.stdin:
    order, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    if order == "alone":
        alone(*numbers)
    elif order == "take":
        begun = time.monotonic_ns()
        take()
        say(f"{begun} {time.monotonic_ns()}")
    elif order == "give":
        given = time.monotonic_ns()
        LOCK.release()
        say(given)
    elif order == "contend":
        contend(*numbers)
    else:
        raise SystemExit("told something that it does not know")
