"""Training: a change of the k active columns of Wm (MEMOIR section 3.1).

Knows nothing of banks, routing or files. The base model and Wm are only read; the result is each
edit's change, as a product of two thin matrices.
"""

from collections.abc import Sequence

from torch import Tensor

from memoir_edge.editor.adam import Adam
from memoir_edge.editor.batch import Job, OnStep, batch_of
from memoir_edge.editor.descent import Descent
from memoir_edge.editor.readings import Readings
from memoir_edge.editor.run import running
from memoir_edge.history.events import Change
from memoir_edge.settings import Settings

OPTIMISERS: dict[str, type[Adam | Descent]] = {"adam": Adam, "sgd": Descent}


def train(
    readings: Readings,
    Wm: Tensor,
    jobs: Sequence[Job],
    settings: Settings,
    on_step: OnStep = lambda step, loss: None,
) -> list[Change]:
    """Train edits together until each target is likely enough or the steps run out.

    The rows of each edit read through its own mask and change its own columns. Where two edits
    share columns their changes add up, exactly as in descent on the sum of the losses over one Wm.

    Args:
        readings: What rows read on the frozen model at its sites; asked, and told.
        Wm: `[d, tiles * D]` float32, not changed.
        jobs: The edits, most often one.
        settings: Optimiser, rate and when to stop.
        on_step: Told of the losses over all tokens that are measured.

    Returns:
        For each job, what is to be added to its columns of Wm.

    Raises:
        InputError: A loss is no longer finite.
    """
    batch = batch_of(jobs, settings)
    with running(readings, jobs, batch) as run:
        reads = [run.reads(*one) for one in zip(jobs, batch.jobs, batch.keep, strict=True)]
        optimiser = OPTIMISERS[settings.optimiser](Wm, jobs, reads, batch, run, settings)
        optimiser.run(on_step)
        return optimiser.changes()
