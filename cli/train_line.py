"""The `gradlab train` that makes a run."""

from gradlab.config import BASE_VARIANT, RunConfig
from gradlab.errors import GradlabError


def train_line(config: RunConfig) -> str | None:
    """The command, if planning it makes the run's config, to the last field.

    None where no options describe it, as of an architecture or a size of the user's own.
    """
    from gradlab.cli.command import command_of
    from gradlab.cli.command_options import TrainOptions
    from gradlab.cli.config_file import run_options
    from gradlab.cli.plan import plan_train

    try:
        options = TrainOptions(**run_options(config))
        planned = plan_train(options)
    except GradlabError:
        return None
    same = planned == config.replace(variant=BASE_VARIANT)
    return command_of("train", options).line if same else None
