"""What the head decides: pure state and events in, steps and notices out.

Nothing here knows a clock, a socket or MLX.
"""

from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.scheduler import PlannedStep, Scheduler

__all__ = ["PlannedStep", "Scheduler", "SchedulerLimits"]
