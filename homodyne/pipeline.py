"""A run, in order. Read this first.

Each phase takes and returns values, so each can be called from a notebook; phase 1 (configuration) is ``config.build``.
"""

import logging
from pathlib import Path

from .config import Job
from .errors import FitError
from .forecasting import forecast_of
from .optimize import fit as fit_dataset
from .posterior.base import Given
from .results import Fit
from .save import save_run
from .speckle import speckle_sums
from .table import summary

log = logging.getLogger(__name__)


def run(job: Job, folder: Path) -> Fit | None:
    """Phases 2 to 4: read, fit, save. Returns the Fit, or None when the job only inspects the data or forecasts errors.

    Raises:
        ConfigError, DataError, FitError: as the phases do.
    """
    job.hardware.configure()
    if job.inspect:
        _say(job.data.inspect())
        return None
    if job.forecast:
        dataset, pixels_per_speckle = job.data.plan()
        size, long_range = speckle_sums(pixels_per_speckle)
        _say(str(forecast_of(dataset, job.mode, job.per_angle_scaling, speckle_size=size, long_range=long_range)))
        return None
    dataset = job.data.load()
    for note in dataset.provenance.notes:
        log.info("%s", note)
    fit, model_rows, estimated = fit_dataset(job, dataset, folder)
    given = Given(estimated, model_rows, seed=job.seed, threads=job.hardware.cores, folder=folder, backend=job.cmc_backend)
    failure = None
    try:
        posterior = job.posterior.sample(given)
    except FitError as error:
        # The fit is saved before anybody hears of it.
        posterior, failure = None, error
    save_run(folder, job=job, dataset=dataset, fit=fit, model_rows=model_rows, posterior=posterior)
    job.report.write(folder)
    _say(summary(fit, None if dataset.truth is None else dataset.truth.comparable(fit.shear_kernel), posterior))
    log.info("Run folder: %s", folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)
    if failure is not None:
        raise failure
    if posterior is not None and not posterior.success:
        raise FitError(f"posterior {posterior.exactness.replace('_', ' ')}: {'; '.join(posterior.statements)}")
    return fit


def _say(text: str) -> None:
    """One record for each line, so that every line of run.log has its time."""
    for line in text.splitlines():
        log.info("%s", line)
