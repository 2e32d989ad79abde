"""A finished job, as its files in a folder."""

from typing import Any

from elth_dist.runtime.job_folder import JobFolder

PART = {"kind": "level", "setting": {"train": {"lr": 0.4}}, "level": 1}


def finish(folder: JobFolder, identity: str = "abc", part: dict[str, Any] = PART) -> None:
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "LATEST").write_text("step-1")
    folder.ticket.write_bytes(b"ticket")
    folder.trained.write_bytes(b"trained")
    (folder.path / ".half.tmp").write_text("left by an interrupted writer")
    folder.commit(identity, part, {"ticket": "fff"}, {"top1": 0.75})
