"""Typed wrappers over ZeroMQ; no other package imports it."""

from pomona.transport.beacons import BeaconProxy, BeaconReceiver, BeaconSender
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
