"""What the scripts share: the arguments, and a wait."""
import sys
import time
import urllib.parse

BASE = sys.argv[1]
TOKEN = sys.argv[2]
URL = urllib.parse.urlsplit(BASE)


def until(condition, seconds=10):
    """Waits until a condition is true, and fails otherwise."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
