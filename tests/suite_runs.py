"""A suite run on test sets held in memory: the model beside the trivial predictors."""

from dataclasses import replace
from types import SimpleNamespace

from torch import nn

from ups_scale.evaluate import examples as pictured
from ups_scale.evaluate import report, run, suite
from ups_scale.evaluate.entrants import model_entrant, trivial_entrants
from ups_scale.evaluate.suites import SUITES

RECIPE = {"run": {"name": "t"}, "model": {"width": 8}, "description": "a <small> recipe"}


def entered(model, tests, horizons):
    """(entrants, test sets) of a dictionary of test sets, measured at `horizons`."""
    sets = [replace(test, steps=test.spec.steps(horizons)) for test in tests.values()]
    if not isinstance(model, nn.Module):
        model.specs = {test.family: test.spec for test in sets}
    return [model_entrant(model, sets), *trivial_entrants(sets, model.context_frames)], sets


def evaluate(model, tests, horizons, accelerator, **options):
    entrants, sets = entered(model, tests, horizons)
    return suite.evaluate(entrants, sets, model.context_frames, accelerator, **options)


def examples(model, test, ranking, horizons, device):
    entrants, (test,) = entered(model, {"one": test}, horizons)
    return pictured.examples(entrants[:1], test, ranking, model.context_frames, device)


def written(out, model, tests, subject, accelerator):
    """The report of an evaluation of `subject`, whose files lie in the folder `out`."""
    entrants, sets = entered(model, tests, subject.horizons)
    lineup = run.Lineup(SimpleNamespace(recipe=RECIPE, model=model), SUITES["small"], subject, sets, entrants)
    report.prepare(out)
    measured = run.measure(lineup, accelerator)
    run.write(measured, out, accelerator.device)
    return measured.report
