"""``python -m pomona_planner``"""

from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_planner.service import Planner
from pomona_planner.settings import PlannerSettings


def main() -> None:
    settings = settings_or_exit(PlannerSettings)
    run_service(f"{settings.node}.planner", settings, lambda stop: Planner(settings).run(stop))


if __name__ == "__main__":
    main()
