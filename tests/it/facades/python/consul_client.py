"""py-consul: agent, health, catalog and blocking queries."""
import threading

import consul

from checks import TOKEN, URL, until

client = consul.Consul(host=URL.hostname, port=URL.port, token=TOKEN or None)
check = consul.Check.ttl("6s")


def passing(**more):
    rows = client.health.service("orders", passing=True, **more)[1]
    return {row["Service"]["ID"] for row in rows}


assert ":" in client.status.leader()
assert client.agent.self()["Config"]["Datacenter"] == "dc1"
register = client.agent.service.register
assert register("orders", service_id="o1", address="10.0.0.1", port=80, tags=["v1"], check=check)
row = client.health.service("orders")[1][0]
assert row["Service"]["Tags"] == ["v1"] and row["Service"]["Port"] == 80
assert [(one["CheckID"], one["Status"]) for one in row["Checks"]] == [("service:o1", "critical")]
assert passing() == set()
assert client.agent.check.ttl_pass("service:o1")
assert passing() == {"o1"} and passing(tag="V1") == {"o1"} and passing(tag="v2") == set()
assert client.agent.check.ttl_warn("service:o1")
assert passing() == set() and client.health.service("orders")[1][0]["Checks"][0]["Status"] == "warning"
assert client.agent.check.ttl_fail("service:o1") and passing() == set()
assert client.agent.check.ttl_pass("service:o1") and passing() == {"o1"}
assert client.catalog.services()[1]["orders"] == ["v1"]
assert client.catalog.service("orders")[1][0]["ServiceID"] == "o1"
assert "o1" in client.agent.services() and "service:o1" in client.agent.checks()

index = client.health.service("orders")[0]
changed = []
watcher = threading.Thread(target=lambda: changed.append(client.health.service("orders", index=index, wait="20s")))
watcher.start()
assert register("orders", service_id="o2", address="10.0.0.2", port=80)
watcher.join(10)
assert changed and int(changed[0][0]) > int(index) and len(changed[0][1]) == 2, changed
assert passing() == {"o1", "o2"}, "without a check it is passing"

client.agent.service.maintenance("o2", "true", "disk")
assert passing() == {"o1"}
held = next(row for row in client.health.service("orders")[1] if row["Service"]["ID"] == "o2")
assert [one["Notes"] for one in held["Checks"] if "Maintenance" in one["Name"]] == ["disk"]
client.agent.service.maintenance("o2", "false")
assert passing() == {"o1", "o2"}
assert register("orders", service_id="o2", address="10.0.0.3", port=81), "it moves"
addresses = {row["Service"]["Address"] for row in client.health.service("orders")[1]}
assert addresses == {"10.0.0.1", "10.0.0.3"}, addresses
until(lambda: "o1" not in passing())
assert client.agent.check.ttl_pass("service:o1") and "o1" in passing()
for one in ("o1", "o2"):
    assert client.agent.service.deregister(one)
assert client.health.service("orders")[1] == []
assert "orders" not in client.catalog.services()[1]
