"""Typed wrappers over ZeroMQ; no other package imports it."""

from .beacons import BeaconReceiver, BeaconSender, Switchboard
from .links import Identity, LinkOrder, Pull, Push
from .sockets import terminate

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
