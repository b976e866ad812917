"""Typed wrappers over ZeroMQ; no other package imports it."""

from pomona.transport.beacons import BeaconReceiver, BeaconSender, Switchboard
from pomona.transport.links import Identity, LinkOrder, Pull, Push
from pomona.transport.sockets import terminate

__all__ = [
    "BeaconReceiver",
    "BeaconSender",
    "Identity",
    "LinkOrder",
    "Pull",
    "Push",
    "Switchboard",
    "terminate",
]
