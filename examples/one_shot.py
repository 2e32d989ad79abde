"""A method and a job kind from outside: one-shot pruning with rewinding (Frankle et al. 2019, figure 7).

    python -m elth_dist.train --plugins examples/one_shot.py --config configs/quickstart.yaml \
        --method '{name: one_shot, density: 0.1, rewind: 1ep}'

Train to theta_r, train on to the end, prune once by the magnitude of the trained weights, rewind, and train again.
A job kind says what it needs, what it does, what it costs before it runs, and what its ticket is called.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from elth_dist import JobKind, Method, Step, job_kinds, methods
from elth_dist.jobs.controls.base import pretrain_job, train_job
from elth_dist.jobs.graph import Graph, Job
from elth_dist.jobs.kinds.imp import LevelJob
from elth_dist.jobs.methods.base import Start
from elth_dist.jobs.setting import Setting

if TYPE_CHECKING:
    from elth_dist.jobs.context import JobContext, Metrics
    from elth_dist.jobs.prediction import Forecast, TicketForecast
    from elth_dist.jobs.report import Rows

Density = Annotated[float, Field(gt=0, le=1, description="kept fraction of the prunable weights")]


@job_kinds.add
class OneShotMask(JobKind):
    """Prune once to a density, by the global magnitude of trained weights."""

    name: ClassVar[str] = "one_shot_mask"
    folder: ClassVar[str] = "mask"
    inputs: ClassVar[Mapping[str, str]] = {"ticket": "theta_r", "trained": "the weights that are compared"}

    density: Density

    def run(self, job: "JobContext") -> "Metrics":
        from elth_dist.jobs.training import finish_masks, load_ticket
        from elth_dist.sparsity.scores import magnitude
        from elth_dist.sparsity.selection import exact_count, prune_to
        from elth_dist.tickets.weights import load_weights

        ticket, trained = load_ticket(None, job), load_weights(job.inputs["trained"].trained)
        scores = magnitude({name: trained[name] for name in ticket.masks})
        masks = prune_to(ticket.masks, scores, exact_count(self.density, ticket.masks.total))
        return finish_masks(job, ticket, masks, criterion="magnitude")

    def predict(self, name: str, inputs: "Mapping[str, TicketForecast]", forecast: "Forecast") -> "TicketForecast":
        theta_r = inputs["ticket"]
        return forecast.ticket_like(theta_r, dict.fromkeys(forecast.names(theta_r.arch), self.density))

    def ticket_title(self, job: Job, rows: "Rows") -> str:
        return "one-shot ticket"


@methods.add
class OneShot(Method):
    """One-shot magnitude pruning of the trained network, with rewinding."""

    name: Literal["one_shot"] = "one_shot"
    density: Density
    rewind: Step = Field(default=Step.parse("1000it"), description="where theta_r is kept: '5ep', '1000it' or 0")

    def plan(self, graph: Graph, setting: Setting) -> None:
        theta_r = graph.add("pretrain", pretrain_job(setting, self.rewind))
        dense = graph.add("level-00", LevelJob(setting=setting, level=0, data_order="level-00"), ticket=theta_r)
        mask = graph.add("mask", OneShotMask(density=self.density), ticket=theta_r, trained=dense)
        graph.add("train", train_job(setting), ticket=mask)

    def start(self, steps_per_epoch: int) -> Start:
        return Start(f"method.rewind: {self.rewind}", self.rewind.iterations(steps_per_epoch))
