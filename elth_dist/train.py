"""The entry: `torchrun -m elth_dist.train --config FILE [--section.option value ...]`.

A configuration becomes a graph of jobs, which all ranks do together, one job after the other. Finished jobs are
skipped and interrupted jobs continue, so that the same command always leads to the same results.
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
    """Run the configuration of a command line.

    Returns:
        The exit status: 0 if the run finished, or was stopped by a signal and saved; 2 after a user's mistake; 1 if
        ranks disagree.
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
    """Do the method's graph of jobs with all ranks, and write the report.

    Returns:
        The results of the finished jobs by name: all jobs, unless a signal stopped the run.

    Raises:
        UserError, DisagreementError: as the jobs raise them.
    """
    # importing torch takes seconds: by now, most mistakes have been reported
    from elth_dist.jobs.report import write_report
    from elth_dist.jobs.walk import walk
    from elth_dist.runtime.run_directory import RunDirectory

    plan = make_plan(config.method, config.setting)
    directory = RunDirectory(config.run.folder)
    jobs = plan.jobs

    def report() -> None:
        write_report(jobs, plan.groups, directory, title=config.run.name)

    walk(plan, jobs, {job.name: job for job in jobs}, directory, config.to_yaml(), finish=report)
    return {job.name: directory.job(job.name).read() for job in jobs if directory.job(job.name).result.exists()}


if __name__ == "__main__":
    sys.exit(main())
