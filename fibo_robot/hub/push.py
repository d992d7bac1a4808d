"""Putting a run directory on the Hub, or into a folder as it would lie there."""

import shutil
import tempfile
from pathlib import Path

from fibo_robot.files import replace_atomically
from fibo_robot.hub.card import Card, make_card
from fibo_robot.hub.source import HubError, check_repository
from fibo_robot.training.checkpoint import CONFIG, HISTORY, META, MODEL, load_checkpoint

README = "README.md"


def write_folder(run: Path | str, repository: str, target: Path | str) -> Card:
    """Write what the Hub would hold of a run: the model, its card, and the results the card rests on.

    The trainer's state (`trainer.ckpt`) and everything else stays behind. An earlier folder at `target` is
    replaced as a whole, once the new one is complete.

    Args:
        run: a run directory.
        repository: owner/name, as the card shows it.
        target: the folder to make; it loads wherever a run directory is accepted.

    Returns:
        the card, which stands there as README.md.

    Raises:
        CheckpointError: `run` is no complete run directory.
        HubError: the name is none, `target` holds something else, or a result of the run is damaged.
    """
    run, target = Path(run), Path(target)
    check_repository(repository)
    card = make_card(load_checkpoint(run), repository)
    if target.exists() and not (target / MODEL).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} exists and is no folder of a model: name another.")
    if target.resolve() in (run.resolve(), *run.resolve().parents):
        raise HubError(f"{target} is the run directory itself, or holds it: name another.")
    with replace_atomically(target) as temporary:
        for name in (CONFIG, META, MODEL, HISTORY, *card.files):
            if (run / name).is_file():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(run / name, temporary / name)
        (temporary / README).write_text(card.text, encoding="utf-8")
    return card


def push(run: Path | str, repository: str, *, private: bool = False) -> tuple[str, Card]:
    """Upload a run as one commit, making the repository where there is none.

    Who is logged in (`hf auth login`, or HF_TOKEN) must own it.

    Args:
        run: a run directory.
        repository: owner/name.
        private: whether a repository that is made now is seen by its owner alone.

    Returns:
        the repository's address, and the card.

    Raises:
        CheckpointError: `run` is no complete run directory.
        HubError: the name is none, or the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        card = write_folder(run, repository, folder)
        api = HfApi(library_name="fibo_robot")
        try:
            address = api.create_repo(repository, private=private, exist_ok=True)
            # Not upload_folder, which may spread a folder over several commits.
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            added = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
            api.create_commit(repository, added, commit_message=f"Push {Path(run).resolve().name}")
        except (LocalTokenNotFoundError, HfHubHTTPError, ConnectionError) as error:
            raise HubError(
                f"The Hub does not take {repository}: {' '.join(str(error).split())}. Log in with "
                "`hf auth login` as its owner, and check the network."
            ) from error
    return str(address), card
