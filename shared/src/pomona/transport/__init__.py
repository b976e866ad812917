"""Typed wrappers over ZeroMQ. No other package imports zmq."""

from pomona.transport.beacon_proxy import BeaconProxy
from pomona.transport.beacons import BeaconReceiver, BeaconSender
from pomona.transport.links import Identity, LinkOrder, Pull, Push
from pomona.transport.sockets import terminate

__all__ = [
    "BeaconProxy",
    "BeaconReceiver",
    "BeaconSender",
    "Identity",
    "LinkOrder",
    "Pull",
    "Push",
    "terminate",
]
