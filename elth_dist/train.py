"""The entry: `torchrun -m elth_dist.train --config FILE [--section.option value ...]`.

A configuration becomes a graph of jobs; all ranks walk it together, one job after the other. What is finished is
skipped, what was interrupted continues, so that the same command always leads to the same end.
"""

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from elth_dist.config import Config, read_config
from elth_dist.errors import DisagreementError, UserError, tell
from elth_dist.jobs.plan import check, make_plan
from elth_dist.runtime.launcher import launcher_ranks

if TYPE_CHECKING:
    from elth_dist.runtime.job_folder import Result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what a command line describes.

    Returns:
        The exit status: 0 when all is done, or safely stopped because a signal asked for it; 2 for a user's mistake;
        1 when ranks disagree.
    """
    rank = 0
    try:
        rank, world_size, _ = launcher_ranks()
        level = logging.WARNING if rank == 0 else logging.ERROR
        logging.basicConfig(level=level, format="elth_dist: warning: %(message)s")
        command = read_config(arguments)
        if not command.print_only:
            check(command.config.method, command.config.setting, rank, world_size)
            run(command.config)
        elif rank == 0:
            print(command.config.to_yaml(), end="")
    except (UserError, DisagreementError) as error:
        return tell(error, rank)
    return 0


def run(config: Config) -> "dict[str, Result]":
    """Walk the method's graph of jobs with all ranks; report at the end.

    Returns:
        The results of the finished jobs by name: of all of them, unless a signal asked for the end.

    Raises:
        UserError, DisagreementError: as the jobs do.
    """
    # torch takes seconds to import; most mistakes have been found by now
    from elth_dist.jobs.report import write_report
    from elth_dist.jobs.walk import walk
    from elth_dist.runtime.run_directory import RunDirectory

    plan = make_plan(config.method, config.setting)
    directory = RunDirectory(config.run.folder)
    jobs = plan.jobs

    def report() -> None:
        write_report(jobs, directory, title=config.run.name)

    walk(plan, jobs, {job.name: job for job in jobs}, directory, config.to_yaml(), finish=report)
    return {job.name: directory.job(job.name).read() for job in jobs if directory.job(job.name).result.exists()}


if __name__ == "__main__":
    sys.exit(main())
