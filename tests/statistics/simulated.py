"""Outcomes of training runs, given or simulated, in the form that statistics take."""

NOMINAL = (0.93, 0.97)
SIMULATIONS = 2000


def run(outcomes, first_seed=0):
    return dict(enumerate((bool(outcome) for outcome in outcomes), start=first_seed))


def separate(table):
    """Each row a run on seeds of its own."""
    return [run(row, 1000 * number) for number, row in enumerate(table)]


def shared(table):
    """Each row a run, each column a seed."""
    return [run(row) for row in table]


def shares(row):
    """A run whose outcomes are shares of its checkpoints."""
    return dict(enumerate(map(float, row)))


def shared_shares(table):
    return [shares(row) for row in table]


def outcomes(generator, mean, run_effect, scene_effect, runs, seeds):
    """Runs and scenes move a latent score; `mean` in its units. Returns `(simulations, runs, seeds)`."""
    score = (
        mean
        + generator.normal(0, run_effect, (SIMULATIONS, runs, 1))
        + generator.normal(0, scene_effect, (SIMULATIONS, 1, seeds))
        + generator.normal(0, 1, (SIMULATIONS, runs, seeds))
    )
    return score > 0
