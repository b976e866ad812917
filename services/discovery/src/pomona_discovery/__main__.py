"""``python -m pomona_discovery``"""

from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_discovery.service import serve
from pomona_discovery.settings import DiscoverySettings

if __name__ == "__main__":
    settings = settings_or_exit(DiscoverySettings)
    run_service("discovery", settings, lambda stop: serve(settings, stop))
