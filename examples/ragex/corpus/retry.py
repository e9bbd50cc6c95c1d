"""Calling a service that fails now and then."""

import random
import time


class GaveUp(Exception):
    """Every attempt failed; the last error is the cause."""


def delays(first, factor, longest):
    """Exponential backoff with full jitter: how long to wait before each new attempt."""
    wait = first
    while True:
        yield random.uniform(0, min(wait, longest))
        wait *= factor


def call(request, attempts=5, first=0.1, factor=2.0, longest=10.0, sleep=time.sleep):
    """Sends a request, and sends it again after a failure, at most so many attempts."""
    waits = delays(first, factor, longest)
    for attempt in range(1, attempts + 1):
        try:
            return request()
        except ConnectionError as error:
            if attempt == attempts:
                raise GaveUp(f"{attempts} attempts failed") from error
            sleep(next(waits))
