"""The engine's side: points go out as job arrays, and each comes back as the record of its job or as its end."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from peftbench.errors import UserError
from peftbench.record import INTERRUPTED, Record
from peftbench.sweep import outcome
from peftbench.sweep.carrier import Carrier
from peftbench.sweep.child import Judge
from peftbench.sweep.claim import Claim
from peftbench.sweep.grid import Point
from peftbench.sweep.progress import Progress
from peftbench.sweep.slurm import ticket as tickets
from peftbench.sweep.slurm.job import Task
from peftbench.sweep.slurm.options import Cluster
from peftbench.sweep.slurm.queue import Queue, Seen
from peftbench.sweep.slurm.sent import PATIENCE, Sent, left
from peftbench.sweep.slurm.submit import new_name, submit
from peftbench.sweep.slurm.ticket import Ticket
from peftbench.sweep.slurm.watch import wait_until_gone

LOOK_SECONDS = 0.5
"""Between two looks for records."""
SPARE_FILES = 256
UNSENT = Ticket("", 0, "")
"""Of a point whose job has yet to be sent."""


class SlurmPool(Carrier):
    """Jobs at work; see `Carrier`.

    A job is left alone when its engine ends, and found again by the next one. A record that the run has not written
    itself counts only once the job has left the queue: it may be started again, or Slurm knows better why it ended.
    """

    def __init__(self, points: Sequence[Point], progress: Progress, cluster: Cluster) -> None:
        super().__init__(points, progress)
        self._cluster = cluster
        trials = cluster.at_a_time([point.run for point in points]) if cluster.search else None
        self._room = trials or cluster.options.array_size
        self._queue = Queue(cluster.options.poll)
        self._new: list[Sent] = []
        self._sent: list[Sent] = []
        self._before = 0
        """How many points were found to be out, and it has not been said."""
        self._filling = True

    def __enter__(self) -> Self:
        _allow_files(self._room)
        return super().__enter__()

    def _close(self, error: BaseException | None, why: str) -> None:
        """See `Carrier._close`."""
        if error is not None and (self._cluster.options.cancel or not isinstance(error, KeyboardInterrupt)):
            self._cancel(why)
        elif self._sent:
            self._progress.say("\n".join(left(self._sent)))
        for sent in (*self._new, *self._sent):
            sent.claim.release()

    @property
    def free(self) -> bool:
        """See `Carrier.free`; a search fills up at once, a grid when all of the last array has ended."""
        return self._filling and len(self._new) + len(self._sent) < self._room

    @property
    def busy(self) -> bool:
        """See `Carrier.busy`."""
        return bool(self._new or self._sent or self._ended)

    def held_by(self, point: Point) -> str | None:
        """See `Carrier.held_by`: a job that has the point is ours."""
        return None

    def start(self, point: Point, claim: Claim, judge: Judge | None = None) -> None:
        """Have a point's job sent with the next array, or wait for the one that an earlier engine has sent.

        Raises:
            UserError: see `Carrier.start`; or Slurm does not answer, and such a job may be at work.
        """
        try:
            held = self._job_of(point)
        except UserError:
            claim.release()
            raise
        if held is not None:
            self._before += 1
            self._sent.append(Sent(point, claim, judge, held))
        else:
            self._new.append(Sent(point, claim, judge, UNSENT))

    def wait(self, seconds: float | None = None) -> list[Record]:
        """See `Carrier.wait`."""
        if self._before:
            self._progress.say(f"waiting for jobs that were sent before: {self._before}")
            self._before = 0
        self._filling = self._cluster.search
        limit = float("inf") if seconds is None else time.monotonic() + seconds
        while not self._ended:
            if self._new:
                self._send()
            self._look()
            for sent in [sent for sent in self._sent if sent.began is not None]:
                self._hear(sent)
            if self._ended or time.monotonic() >= limit:
                break
            with self._interrupts.allowed():
                time.sleep(max(0.0, min(LOOK_SECONDS, limit - time.monotonic())))
        self._filling = self._filling or not self._sent
        ended, self._ended = self._ended, []
        return ended

    def _names(self) -> list[str]:
        return sorted({sent.ticket.name for sent in self._sent})

    def _job_of(self, point: Point) -> Ticket | None:
        """The ticket of a job whose end has yet to become this point's record."""
        held, record = Ticket.read(point), outcome.record_of(point)
        if held is None or (record is not None and outcome.is_own(record)):
            return None
        if (held.name, held.index) in self._queue.answer([held.name]):
            return held
        # It has ended while nobody looked. What is not to be tried again gets its record from Slurm's accounting.
        return held if record is None and not self._engine.retry_failed else None

    def _send(self) -> None:
        """Send what is new: tickets first, so that whoever comes after us knows what may be out.

        Raises:
            UserError: Slurm refuses, or the folders cannot be written.
            KeyboardInterrupt: the user wants to stop.
        """
        name, now = new_name(self._sweep.name), datetime.now(UTC).isoformat()
        tasks: list[Task] = []
        for sent in list(self._new):
            if said := outcome.begin(sent.point):
                self._progress.say(said)
            with outcome.writing(sent.point.folder):
                (sent.point.folder / outcome.LOG).unlink(missing_ok=True)
            before, sent.ticket = Ticket.read(sent.point), Ticket(name, len(tasks), now)
            if not tickets.hand_over(sent.point, sent.ticket) and before is not None:
                sent.ticket = before  # a job that Slurm did not show us is at work at it
            else:
                sent.asked = True
                tasks.append(
                    Task(sent.point, sent.ticket, sent.judge is not None, self._cluster.execute, self._cluster.preload)
                )
            self._new.remove(sent)
            self._sent.append(sent)
        if not tasks:
            return
        try:
            job = submit(tasks, self._cluster)
        except UserError:
            with self._interrupts.allowed():
                pass  # Ctrl-C ends sbatch too, and is the better reason
            raise
        for sent in self._sent:
            sent.asked = False
        what = f"job {job}" if len(tasks) == 1 else f"array {job} of {len(tasks)} jobs"
        self._progress.say(f"sent to Slurm: {what} ({name})")

    def _hear(self, sent: Sent) -> None:
        """Take a record that stands, and judge the validations that have come."""
        if (record := sent.own_record()) is not None:
            self._take(sent, record)
        elif sent.judge is not None:
            for index, figures in sent.wire.news():
                if (reason := sent.judge(index, figures)) is not None:
                    sent.wire.end(reason)

    def _look(self) -> None:
        """Find the jobs that have left the queue and no record that stands."""
        alive = self._queue.alive(self._names())
        if alive is None:
            return
        for sent in list(self._sent):
            seen = alive.get(sent.key)
            if seen is not None:
                self._show(sent, seen)
            elif (record := sent.end(self._queue, self._cluster.options.time)) is not None:
                if sent.lost and sent.attempt <= self._engine.retries:
                    self._again(sent, record)
                else:
                    self._take(sent, record)

    def _again(self, sent: Sent, record: Record) -> None:
        """Have another job sent for a point that has lost its own."""
        again = Sent(sent.point, sent.claim, sent.judge, UNSENT, attempt=sent.attempt + 1)
        self._progress.say(f"{record.run_id} is {record.status}, try {again.attempt} follows: {record.reason}")
        self._sent.remove(sent)
        self._new.append(again)

    def _show(self, sent: Sent, seen: Seen) -> None:
        sent.gone = None
        if seen.state == "RUNNING" and sent.began is None:
            sent.began = datetime.now(UTC)
            self._progress.begin(sent.point.run.run_id)
            self._progress.update(sent.point.run.run_id, f"job {seen.job} on {seen.where}", 0, 0)
        elif seen.state == "PENDING" and sent.began is not None:
            sent.began = None
            self._progress.say(f"{sent.point.run.run_id} waits to be started again (job {seen.job})")

    def _take(self, sent: Sent, record: Record) -> None:
        tickets.drop(sent.point)
        sent.claim.release()
        self._sent.remove(sent)
        self._ended.append(record)

    def _cancel(self, why: str) -> None:
        """End every job that is out, wait until it is gone, and say in its record that this was not its fault."""
        self._queue.cancel(self._names())
        wait_until_gone(self._queue, self._names(), PATIENCE)
        for sent in self._sent:
            with suppress(UserError):
                if sent.own_record() is None:
                    outcome.finish(sent.point, "killed", f"{INTERRUPTED} {why}", started=sent.began)
            tickets.drop(sent.point)


def _allow_files(count: int) -> None:
    """The claim of each point that is out is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + SPARE_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + SPARE_FILES), hard))
