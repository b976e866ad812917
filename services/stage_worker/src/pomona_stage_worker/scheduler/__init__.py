"""The head's scheduler: a pure state machine, events in and instructions out.

It has no clock, no socket and no MLX.
"""

from pomona_stage_worker.scheduler.client_updates import SendUpdate
from pomona_stage_worker.scheduler.limits import SchedulerLimits
from pomona_stage_worker.scheduler.scheduler import Instruction, RunStep, Scheduler

__all__ = ["Instruction", "RunStep", "Scheduler", "SchedulerLimits", "SendUpdate"]
