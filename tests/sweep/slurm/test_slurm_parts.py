"""What becomes of jobs, piece by piece, without a Slurm: states, tickets, what a job finds when it starts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support import noop_launcher

from peftbench import record as records
from peftbench.errors import UserError
from peftbench.sweep import outcome
from peftbench.sweep.claim import Claim
from peftbench.sweep.engine import carry_out_plan
from peftbench.sweep.plan import Plan
from peftbench.sweep.slurm import job, sent, watch
from peftbench.sweep.slurm.job import Task
from peftbench.sweep.slurm.queue import Ending, Queue, endings
from peftbench.sweep.slurm.ticket import JOB, Ticket, Wire, drop, hand_over, settle

SENT = "2026-01-02T03:04:05+00:00"


def ticket(name: str = "peftbench-s-1", index: int = 0) -> Ticket:
    return Ticket(name, index, SENT)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("7_2|OUT_OF_MEMORY|0:125", "oom", "hydra.launcher.memory"),
        ("7_2|TIMEOUT|0:0", "killed", "hydra.launcher.time=60 min"),
        ("7_2|DEADLINE|0:0", "killed", "hydra.launcher.time=60 min"),
        ("7_2|CANCELLED by 1000|0:0", "killed", "cancelled"),
        ("7_2|CANCELLED|0:0", "killed", "cancelled"),
        ("7_2|PREEMPTED|0:0", "killed", "preempted"),
        ("7_2|NODE_FAIL|0:0", "killed", "the node of Slurm job 7_2 failed"),
        ("7_2|BOOT_FAIL|0:0", "killed", "the node of Slurm job 7_2 failed"),
        ("7_2|FAILED|0:9", "killed", "signal 9"),
        ("7_2|FAILED|3:0", "failed", "exit code 3"),
        ("7_2|COMPLETED|0:0", "failed", "left no record"),
        ("7_2|REVOKED|0:0", "killed", "REVOKED"),
    ],
)
def test_a_state_of_slurm_is_a_status_and_a_reason(line: str, status: str, said: str) -> None:
    ((indices, end),) = endings(line)
    assert list(indices) == [2]
    found, reason = end.verdict(60)
    assert found == status
    assert said in reason


def test_an_end_without_a_reason_is_asked_for_again_for_a_while(noop_points, monkeypatch) -> None:
    """Seen once on a real Slurm: a job that SIGKILL had ended was FAILED with code 0 at first."""
    (point,) = noop_points("")
    claim = Claim.take(point)
    assert claim is not None
    out = sent.Sent(point, claim, None, ticket())
    queue = Answers(sacct="7|FAILED|0:0\n")
    assert out.end(queue, 60) is None
    queue = Answers(sacct="7|FAILED|0:9\n")
    found = out.end(queue, 60)
    assert found is not None
    assert (found.status, found.reason) == ("killed", "Slurm job 7 was ended by signal 9")
    monkeypatch.setattr(sent, "PATIENCE", -1.0)
    found = out.end(Answers(sacct="7|FAILED|0:0\n"), 60)
    assert found is not None
    assert found.status == "failed"
    claim.release()


@pytest.mark.parametrize(
    ("job_id", "indices"),
    [("12", [0]), ("12_3", [3]), ("12_[0-2]", [0, 1, 2]), ("12_[0,4-6%2]", [0, 4, 5, 6]), ("12_[7%1]", [7])],
)
def test_ids_of_array_tasks(job_id: str, indices: list[int]) -> None:
    ((found, _),) = endings(f"{job_id}|CANCELLED by 0|0:0")
    assert list(found) == indices


class Answers(Queue):
    """Says what Slurm's commands would have printed."""

    def __init__(self, **printed: str | None) -> None:
        super().__init__(poll=100)
        self.printed = printed
        self.asked: list[str] = []

    def _ask(self, *command: str) -> str | None:
        self.asked.append(command[0])
        return self.printed[command[0]]


def test_a_task_of_its_own_counts_before_a_range_that_names_it() -> None:
    queue = Answers(sacct="7_0|COMPLETED|0:0\n7_[0-7%3]|CANCELLED by 0|0:0\n")
    assert queue.ending(ticket(index=0)) == Ending("7_0", "COMPLETED")
    assert queue.ending(ticket(index=5)).state == "CANCELLED"
    assert queue.ending(ticket(index=9)) is None


def test_what_accounting_has_not_heard_of_yet_is_not_known() -> None:
    assert Answers(sacct="7|RUNNING|0:0\n").ending(ticket()) is None
    assert Answers(sacct="").ending(ticket()) is None
    assert Answers(sacct=None).ending(ticket()) is None


def test_the_queue_is_asked_once_in_a_while_and_its_silence_is_not_an_end() -> None:
    queue = Answers(squeue="7_1|peftbench-s-1|RUNNING|1|node3\n8|peftbench-s-2|PENDING|N/A|(Priority)\n")
    seen = queue.alive(["peftbench-s-1", "peftbench-s-2"])
    assert {key: (found.job, found.state) for key, found in seen.items()} == {
        ("peftbench-s-1", 1): ("7_1", "RUNNING"),
        ("peftbench-s-2", 0): ("8", "PENDING"),
    }
    queue.alive(["peftbench-s-1"])
    assert queue.asked == ["squeue"]
    queue.alive(["peftbench-s-3"])
    assert queue.asked == ["squeue"] * 2
    silent = Answers(squeue=None)
    assert silent.alive(["peftbench-s-1"]) is None
    with pytest.raises(UserError, match="Slurm does not answer"):
        silent.answer(["peftbench-s-1"])


def test_a_ticket_is_not_replaced_under_a_job_that_works(noop_points) -> None:
    (point,) = noop_points("")
    assert hand_over(point, ticket("a"))
    at_work = Claim.take(point, JOB)
    assert not hand_over(point, ticket("b"))
    assert Ticket.read(point) == ticket("a")
    at_work.release()
    assert hand_over(point, None)
    assert Ticket.read(point) is None


def task(point, held: Ticket) -> Task:
    return Task(point, held, False, "noop:execute", "noop")


def starts(point) -> int:
    path = point.folder / "starts"
    return len(path.read_text().split()) if path.exists() else 0


def test_a_job_that_comes_too_late_or_again_runs_nothing(noop_points, monkeypatch, capsys) -> None:
    (point,) = noop_points("")
    hand_over(point, ticket("b"))
    job.main(task(point, ticket("a")))
    assert starts(point) == 0
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    job.main(task(point, ticket("b")))
    record = records.read(point.folder)
    assert (record.status, record.environment["slurm_job"], record.environment["slurm_restarts"]) == ("ok", "77", 1)
    job.main(task(point, ticket("b")))
    assert starts(point) == 1
    assert records.read(point.folder) == record
    assert "is no longer for this job" in capsys.readouterr().out


def test_a_job_that_is_started_again_replaces_what_its_first_try_left(noop_points) -> None:
    (point,) = noop_points("")
    hand_over(point, ticket())
    outcome.finish(point, "killed", "the process was ended by SIGTERM")
    Wire(point).judge(1, {"validation/accuracy": 0.5})
    job.main(task(point, ticket()))
    assert records.read(point.folder).status == "ok"
    assert not list(Wire(point).news())


def test_retries_and_the_timeout_of_the_engine_hold_inside_a_job(noop_points) -> None:
    (flaky,), (slow,) = noop_points("flaky:1", retries=1), noop_points("sleep:600", timeout=1.0)
    for point in (flaky, slow):
        hand_over(point, ticket())
        job.main(task(point, ticket()))
    record = records.read(flaky.folder)
    assert (record.status, record.environment["attempt"], record.environment["jobs"]) == ("ok", 2, 1)
    assert "engine.timeout" in records.read(slow.folder).reason


def test_a_run_is_judged_through_files(noop_points) -> None:
    (point,) = noop_points("curve:4")
    hand_over(point, ticket())
    Wire(point).end("enough")
    run = Wire(point)
    assert run.judge(1, {"validation/accuracy": 0.5}) == "enough"
    hand_over(point, ticket("b"))
    assert run.judge(1, {"validation/accuracy": 0.5}) is None
    engine = Wire(point)
    assert list(engine.news()) == [(1, {"validation/accuracy": 0.5})]
    run.judge(2, {"validation/accuracy": 0.75})
    assert list(engine.news()) == [(2, {"validation/accuracy": 0.75})]
    with run._reports.open("a") as file:
        file.write("[3, {")
    assert list(engine.news()) == []


def test_tickets_of_points_with_a_record_of_their_own_are_dropped(noop_points) -> None:
    done, killed, out = noop_points("", "", "")
    for index, point in enumerate((done, killed, out)):
        hand_over(point, ticket(f"n{index}"))
    record = outcome.blank_record(done, datetime.now(UTC))
    record.write(done.folder)
    outcome.finish(killed, "killed", "the process was ended by SIGTERM")
    assert settle(done.folder.parent) == {"n1", "n2"}
    assert Ticket.read(done) is None


def test_without_slurm_a_point_that_was_sent_is_neither_run_here_nor_forgotten(noop_points, monkeypatch) -> None:
    (point,) = noop_points("")
    hand_over(point, ticket())
    monkeypatch.setattr("peftbench.sweep.slurm.queue.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no squeue here.*remove the folder \.slurm"):
        carry_out_plan(Plan.of([point]), noop_launcher())
    assert starts(point) == 0
    assert "sent" in "\n".join(Plan.of([point]).lines())
    drop(point)
    (record,) = carry_out_plan(Plan.of([point]), noop_launcher())
    assert record.status == "ok"


def test_a_local_engine_waits_for_a_job_and_takes_over_when_it_is_gone(noop_points, monkeypatch) -> None:
    (point,) = noop_points("")
    hand_over(point, ticket())
    answers = Answers(squeue="7|peftbench-s-1|RUNNING|N/A|node3\n")
    look = watch.Watch()
    look._queue = answers
    assert "Slurm job 7, running" in look.holder(point)
    answers.printed["squeue"] = None
    look._queue._asked = (float("-inf"), frozenset(), {})
    assert "does not answer" in look.holder(point)
    answers.printed["squeue"] = ""
    assert look.holder(point) is None
    assert Ticket.read(point) is None
