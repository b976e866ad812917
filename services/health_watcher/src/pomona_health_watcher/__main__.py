"""``python -m pomona_health_watcher``"""

from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_health_watcher.service import serve
from pomona_health_watcher.settings import HealthWatcherSettings

if __name__ == "__main__":
    settings = settings_or_exit(HealthWatcherSettings)
    run_service("health_watcher", settings, lambda stop: serve(settings, stop))
