"""py-eureka-client, which speaks XML."""
import asyncio
import os

import py_eureka_client.eureka_basic as eureka
from py_eureka_client.eureka_client import EurekaClient

from checks import TOKEN, URL, until

server = f"http://eureka:{TOKEN or 'any'}@{URL.netloc}/eureka"
do = asyncio.new_event_loop().run_until_complete


def client(host):
    return EurekaClient(
        eureka_server=server, app_name="orders", instance_ip=host, instance_host=host,
        instance_port=8080, renewal_interval_in_secs=2, duration_in_secs=6,
        metadata={"zone": "a & <b>"})


def shown(host):
    instances = do(eureka.get_application(server, "ORDERS")).instances
    return next((one for one in instances if one.ipAddr == host), None)


def status(host):
    return shown(host).status


first, second = client("10.0.0.1"), client("10.0.0.2")
do(first.start())
one = shown("10.0.0.1")
assert (one.status, one.port.port, one.instanceId) == ("UP", 8080, "10.0.0.1:orders:8080")
assert one.metadata["zone"] == "a & <b>"
assert (one.leaseInfo.durationInSecs, one.leaseInfo.renewalIntervalInSecs) == (6, 2)
do(second.start())


def known():
    application = first.applications and first.applications.get_application("ORDERS")
    return {one.ipAddr for one in application.up_instances} if application else set()


# By the deltas that it fetches.
until(lambda: known() == {"10.0.0.1", "10.0.0.2"})
do(second.status_update("OUT_OF_SERVICE"))
assert status("10.0.0.2") == "OUT_OF_SERVICE"
assert shown("10.0.0.2").overriddenstatus == "OUT_OF_SERVICE"
until(lambda: known() == {"10.0.0.1"})
do(second.register())
assert status("10.0.0.2") == "OUT_OF_SERVICE", "an override outlives a registration"
do(second.delete_status_override())
assert status("10.0.0.2") == "UP"
do(eureka.send_heartbeat(server, "ORDERS", "10.0.0.1:orders:8080", 1))
for unknown in (lambda: eureka.send_heartbeat(server, "ORDERS", "10.0.0.9:orders:8080", 1),
                lambda: eureka.cancel(server, "ORDERS", "10.0.0.9:orders:8080")):
    try:
        do(unknown())
        raise AssertionError("an unknown instance was accepted")
    except AssertionError:
        raise
    except Exception as error:
        assert "404" in str(getattr(error, "code", error)), error
everything = do(eureka.get_applications(server))
assert everything.appsHashcode == "UP_2_", everything.appsHashcode
do(second.cancel())
until(lambda: known() == {"10.0.0.1"})
do(first.cancel())
# The client has threads of its own.
os._exit(0)
