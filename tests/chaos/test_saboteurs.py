from pathlib import Path

import anyio

from tests.chaos.redis_broker import RedisBroker
from tests.chaos.runner import Report, run
from tests.chaos.scene import Request

# Of each saboteur what gives it away: one of these at least.
SIGNS = {
    "no-guard": {"handed on twice", "ended twice"},
    "from-the-end": {"lost", "left over"},
    # What takes longer than a lease comes back until it is given up as if it killed its workers.
    "no-heartbeats": {"left over", "extra letters"},
}


def request(saboteur: str) -> Request:
    """Few jobs, so that there is time enough for all of them; more than usual take long."""
    sabotaged = ("-m", "tests.chaos.redis_saboteurs", saboteur)
    return Request(
        seed=1,
        seconds=6,
        workers=2,
        rate=40,
        kill_every_s=1_000,
        slow=0.05,
        command=("-m", "asyafw") if saboteur == "nobody" else sabotaged,
        only=["reply lost"],
        pauses_s=(0.2, 0.5),
        patience_s=12,
    )


async def test_a_run_with_sabotaged_workers_turns_red_and_no_other(tmp_path: Path) -> None:
    reports: dict[str, Report] = {}

    async def sabotage(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        reports[name] = await run(RedisBroker(), request(name), folder)

    async with anyio.create_task_group() as tasks:
        for name in ("nobody", *SIGNS):
            tasks.start_soon(sabotage, name)

    violated = {name: set(report.verdict.violations) for name, report in reports.items()}
    assert not violated["nobody"], reports["nobody"]
    unseen = {name: violated[name] for name, signs in SIGNS.items() if not signs & violated[name]}
    assert not unseen
