"""Does a clip keep showing the same thing? Cosines between the features of its frames.

The similarity of a clip is the mean cosine over all pairs of different frames (moments of a video, or views of one
moment). With features of a network that recognises faces it is the identity consistency of the literature. Features of
an untrained network all point the same way, so their mean over all frames of the set is taken off first; then frames
of different videos have a cosine of about 0, and only what tells videos apart counts.
"""

import numpy as np

__all__ = ["frame_similarity"]


def frame_similarity(features: np.ndarray, *, centre: bool) -> np.ndarray:
    """Mean cosine of different frames, float64 [N].

    Args:
        features: [N, T, D], T at least 2.
        centre: Take off the mean over all frames of all clips first.
    """
    features = np.asarray(features, dtype=np.float64)
    frames = features.shape[1]
    if features.ndim != 3 or frames < 2:
        raise ValueError(f"Features must be [N, T, D] with at least two frames, got {list(features.shape)}.")
    if centre:
        features = features - features.mean(axis=(0, 1))
    features = features / np.maximum(np.linalg.norm(features, axis=2, keepdims=True), 1e-12)
    # The squared length of the sum holds every pair twice and T ones.
    return (np.square(features.sum(axis=1)).sum(axis=1) - frames) / (frames * (frames - 1))
