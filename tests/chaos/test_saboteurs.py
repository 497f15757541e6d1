from pathlib import Path

import anyio

from tests.chaos.redis_broker import RedisBroker
from tests.chaos.runner import Report, run
from tests.chaos.scene import Request

# What must be violated with each saboteur, and nothing without.
SIGNS = {
    "nobody": set[str](),
    "no-guard": {"handed on twice", "ended twice"},
    "from-the-end": {"lost", "left over"},
    "no-heartbeats": {"left over"},
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
        for name in SIGNS:
            tasks.start_soon(sabotage, name)

    violated = {name: set(report.verdict.violations) for name, report in reports.items()}
    assert not violated["nobody"], reports["nobody"]
    assert {name: signs - violated[name] for name, signs in SIGNS.items()} == {
        name: set() for name in SIGNS
    }
