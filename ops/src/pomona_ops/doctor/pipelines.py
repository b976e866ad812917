"""Checks that every model that should be served has a pipeline."""

from __future__ import annotations

from collections.abc import Iterable

from pomona_ops.doctor.snapshot import Check, Fault, Snapshot


def _pipelines(snapshot: Snapshot) -> Iterable[Fault]:
    if not snapshot.has_planner:
        yield Fault(
            "critical",
            "no planner is heard, so no pipeline can be formed",
            "start the head of the cluster: `pomona up` there",
        )
    for pipeline in snapshot.pipelines:
        if pipeline.state == "impossible":
            yield Fault(
                "critical",
                f"no pipeline for {pipeline.model} can be formed: {pipeline.reason}",
                "`pomona status` and `pomona nodes` say which machines are missing; what the "
                "reason names must change first",
            )
        elif pipeline.state != "active":
            reason = f": {pipeline.reason}" if pipeline.reason else ""
            yield Fault(
                "warning",
                f"the pipeline of {pipeline.model} is being formed{reason}",
                "wait until `pomona status` says active; if it does not, see `pomona logs`",
            )


PIPELINE_CHECKS = {"pipelines": Check(_pipelines, "every model has its pipeline", "cluster")}
