"""nacos-sdk-python up to version 2: HTTP, version 1."""
import logging
import os
import tempfile
import time

import nacos

from checks import BASE, TOKEN, until

logging.disable(logging.CRITICAL)
client = nacos.NacosClient(BASE, namespace="public", username="nacos", password=TOKEN or "any", logDir=tempfile.mkdtemp())


def hosts(name="orders", **more):
    return {host["port"]: host for host in client.list_naming_instance(name, **more)["hosts"]}


meta = {"zone": "a", "preserved.heart.beat.timeout": "6000", "preserved.heart.beat.interval": "2000"}
assert client.add_naming_instance("orders", "10.0.0.1", 80, cluster_name="DEFAULT", weight=2.5, metadata=meta) is True
host = hosts()[80]
assert (host["healthy"], host["enabled"], host["weight"], host["clusterName"]) == (True, True, 2.5, "DEFAULT")
assert host["metadata"]["zone"] == "a" and host["serviceName"] == "DEFAULT_GROUP@@orders"
beat = client.send_heartbeat("orders", "10.0.0.1", 80, cluster_name="DEFAULT", metadata=meta)
assert (beat["clientBeatInterval"], beat["code"]) == (2000, 10200), beat
assert client.get_naming_instance("orders", "10.0.0.1", 80, "DEFAULT")["healthy"] is True
assert client.modify_naming_instance("orders", "10.0.0.1", 80, "DEFAULT", enable=False) is True
assert hosts() == {}, "one that is not enabled is not listed"
assert client.modify_naming_instance("orders", "10.0.0.1", 80, "DEFAULT", enable=True, weight=5) is True
assert hosts()[80]["weight"] == 5.0

events = []
client.subscribe(nacos.listener.SubscribeListener(fn=lambda event, x: events.append(x.instance["port"]), listener_name="t"), 1, "orders")
time.sleep(2)
client.send_heartbeat("orders", "10.0.0.2", 81, cluster_name="DEFAULT", metadata={"zone": "c"})
assert hosts()[81]["metadata"]["zone"] == "c", "a beat of an unknown instance registers it"
until(lambda: events.count(81) == 1)
assert client.remove_naming_instance("orders", "10.0.0.2", 81, "DEFAULT") is True
until(lambda: events.count(81) == 2)
client.stop_subscribe()

client.add_naming_instance("orders", "10.0.0.4", 83, group_name="BLUE")
assert set(hosts(group_name="BLUE")) == {83} and set(hosts()) == {80}, "a group is another service"
assert client.remove_naming_instance("orders", "10.0.0.4", 83, group_name="BLUE") is True
until(lambda: 80 not in hosts(healthy_only=True))
client.send_heartbeat("orders", "10.0.0.1", 80, cluster_name="DEFAULT", metadata=meta)
assert 80 in hosts(healthy_only=True)
assert client.remove_naming_instance("orders", "10.0.0.1", 80, "DEFAULT") is True
assert hosts() == {}
# The client has threads of its own.
os._exit(0)
