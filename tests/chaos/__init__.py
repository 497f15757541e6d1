"""Real workers, a real broker and everything that can break them: `python -m tests.chaos --help`.

Broker-neutral are the jobs (`workload`), what a run records (`history`) and what must hold of it
(`checker`), who submits (`submitter`), the workers (`workers`), the connections (`proxy`),
and when what breaks (`faults`). What only Redis has is in `redis_broker` and `redis_saboteurs`.
"""
