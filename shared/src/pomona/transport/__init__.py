"""Typed wrappers over ZeroMQ. No other package imports zmq."""

from pomona.transport.beacon_proxy import BeaconProxy
from pomona.transport.beacons import BeaconReceiver, BeaconSender
from pomona.transport.curve import installed, use
from pomona.transport.key_search import find_member
from pomona.transport.links import Identity, LinkOrder, Pull, Push
from pomona.transport.requests import Replier, Requester
from pomona.transport.sockets import terminate

__all__ = [
    "BeaconProxy",
    "BeaconReceiver",
    "BeaconSender",
    "Identity",
    "LinkOrder",
    "Pull",
    "Push",
    "Replier",
    "Requester",
    "find_member",
    "installed",
    "terminate",
    "use",
]
