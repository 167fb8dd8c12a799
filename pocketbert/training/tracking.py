"""Weights & Biases."""

from pathlib import Path


def start_wandb(args):
    """A Weights & Biases run with the arguments as its configuration, or None. Offline runs land beside --out."""
    if args.wandb == "disabled":
        return None
    import wandb  # slow to import, so only on demand
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    try:  # finish_previous: a trial of search.py that was cut short must not go on in the next one's run
        return wandb.init(project="pocketbert", name=Path(args.out).name, mode=args.wandb, config=vars(args),
                          dir=str(Path(args.out).parent), settings=wandb.Settings(silent=True),
                          reinit="finish_previous")
    except wandb.errors.Error as error:
        raise ValueError(f"--wandb {args.wandb}: {error}; try --wandb offline") from None
