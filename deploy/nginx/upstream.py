#!/usr/bin/env python3
"""Writes an nginx upstream with the instances of a list, and reloads nginx if it has changed.

    rollcalld watch orders --available --exec 'upstream.py orders /etc/nginx/conf.d/orders.conf'

The list comes on standard input. Further arguments are those of nginx, such as `-p PREFIX`. If
nginx refuses the new file, the old one stays.
"""
import json
import os
import subprocess
import sys

name, path, *nginx_arguments = sys.argv[1:]
# Weight 0: available, and not to be chosen.
instances = [one for one in json.load(sys.stdin)["instances"] if one["weight"] > 0]
servers = [f"  server {one['address']} weight={one['weight']};" for one in instances]
# An upstream needs a server; one that is down is never tried, and clients get 502.
servers = servers or ["  server 127.0.0.1:9 down;"]
text = "\n".join([f"upstream {name} {{", *servers, "}"]) + "\n"

try:
    with open(path) as known:
        before = known.read()
except FileNotFoundError:
    before = None
if text == before:
    sys.exit()


def write(content):
    with open(path + ".new", "w") as new:
        new.write(content)
    os.replace(path + ".new", path)


def nginx(*arguments):
    return subprocess.run(["nginx", *nginx_arguments, *arguments]).returncode


write(text)
if nginx("-t", "-q") != 0:
    if before is not None:
        write(before)
    sys.exit(f"nginx refuses {path}: it stays as it was")
sys.exit(nginx("-s", "reload"))
