"""``python -m pomona_stage_worker``"""

from pomona_stage_worker.hardware.mlx_lm_import import import_mlx_lm

import_mlx_lm()

from pomona.service import run_service  # noqa: E402 - what follows imports parts of mlx-lm
from pomona.settings import settings_or_exit  # noqa: E402
from pomona.standby import wait_for_turn  # noqa: E402
from pomona_stage_worker.groups.group_backend import grouped  # noqa: E402
from pomona_stage_worker.mlx_backend import WARMUP_CHUNK, mlx_backend  # noqa: E402
from pomona_stage_worker.settings import StageWorkerSettings  # noqa: E402
from pomona_stage_worker.worker import StageWorker  # noqa: E402


def main() -> None:
    wait_for_turn()
    settings = settings_or_exit(StageWorkerSettings)
    backend = mlx_backend(
        stock_kernels=settings.stock_kernels,
        wires_weights=settings.wired_weights,
        prefill_chunk=settings.prefill_chunk or WARMUP_CHUNK,
        keep_warm_s=settings.keep_warm_s,
    )
    if settings.group > 1:
        backend = grouped(backend, settings.group)
    run_service(settings.instance, settings, lambda stop: StageWorker(settings, backend).run(stop))


if __name__ == "__main__":
    main()
