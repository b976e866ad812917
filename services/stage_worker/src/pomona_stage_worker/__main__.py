"""``python -m pomona_stage_worker``"""

from pomona.service import run_service
from pomona.settings import settings_or_exit
from pomona_stage_worker.engine import mlx_engine
from pomona_stage_worker.settings import StageWorkerSettings
from pomona_stage_worker.worker import StageWorker


def main() -> None:
    settings = settings_or_exit(StageWorkerSettings)
    run_service(
        settings.instance, settings, lambda stop: StageWorker(settings, mlx_engine()).run(stop)
    )


if __name__ == "__main__":
    main()
