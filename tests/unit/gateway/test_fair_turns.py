"""Tenants take turns, whatever each wants."""

from __future__ import annotations

import asyncio

from pomona_gateway.text.fair_turns import FairTurns


def test_a_tenant_waits_for_at_most_one_turn_of_another() -> None:
    order: list[str] = []

    async def scenario() -> None:
        turns = FairTurns()

        async def work(tenant: str) -> None:
            async with turns.turn(tenant):
                order.append(tenant)

        async with turns.turn("many"):
            wanted = (*["many"] * 4, "one", "two", "one")
            tasks = [asyncio.create_task(work(tenant)) for tenant in wanted]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert not turns.waiting("many")

    asyncio.run(scenario())
    assert order == ["one", "two", "many", "one", "many", "many", "many"]


def test_a_cancelled_waiter_costs_no_turn() -> None:
    async def scenario() -> None:
        turns = FairTurns()
        done: list[str] = []

        async def work(tenant: str) -> None:
            async with turns.turn(tenant):
                done.append(tenant)

        async with turns.turn("a"):
            waiting = [asyncio.create_task(work(x)) for x in ("b", "c", "d")]
            await asyncio.sleep(0)
            waiting[0].cancel()
        waiting[1].cancel()  # it was given the turn, and has not begun
        await asyncio.gather(*waiting, return_exceptions=True)
        assert done == ["d"]
        async with asyncio.timeout(5), turns.turn("e"):
            pass

    asyncio.run(scenario())
