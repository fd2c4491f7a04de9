"""What the commands that render a checkpoint ask their users for: seeds, a class, a device.

Importing this needs no PyTorch, so that --help and mistakes in the arguments answer at once.
"""

from dnnlib import UserError

__all__ = ["label_of_class", "pair_seeds", "pick_device"]


def pair_seeds(seeds: list, motion_seeds: list | None) -> list[tuple]:
    """(content, motion) of every video: of seeds, or of what they stand for.

    Without motion seeds every content seed moves by its own number; a single motion seed serves all; as many as content
    seeds go one to one; any other number gives all pairs.
    """
    if motion_seeds is None:
        motion_seeds = seeds
    if len(motion_seeds) == 1:
        motion_seeds = motion_seeds * len(seeds)
    if len(motion_seeds) == len(seeds):
        pairs = list(zip(seeds, motion_seeds))
    else:
        pairs = [(seed, motion) for seed in seeds for motion in motion_seeds]
    return list(dict.fromkeys(pairs))  # a pair that is named twice is one file


def label_of_class(generator, class_idx: int | None):
    """The one-hot label [1, c_dim] of --class_idx, or None for a generator without labels.

    Raises:
        UserError: The number is missing, too large, or not wanted.
    """
    import torch

    if generator.c_dim == 0:
        if class_idx is not None:
            raise UserError("--class_idx: this generator was trained without labels; leave the option out.")
        return None
    if class_idx is None or class_idx >= generator.c_dim:
        raise UserError(f"--class_idx: this generator needs the number of a class, 0 to {generator.c_dim - 1}.")
    return torch.nn.functional.one_hot(torch.tensor([class_idx]), generator.c_dim).float()


def pick_device(name: str | None):
    """The device that --device names, by default a GPU if there is one.

    Raises:
        UserError: It cannot be used.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device: '{name}' cannot be used here ({str(error).splitlines()[0]})") from error
    return device
