"""Starts the gateway: ``python -m pomona_gateway``."""

from __future__ import annotations

from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona.standby import wait_for_turn
from pomona_gateway.server import serve
from pomona_gateway.settings import GatewaySettings

if __name__ == "__main__":
    wait_for_turn()
    settings = settings_or_exit(GatewaySettings)
    run_service("gateway", settings, lambda stop: serve(settings, stop, stop.at_once))
