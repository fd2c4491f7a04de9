"""The networks written out formula by formula: slow and plain, frame by frame, in double precision.

It shares no code with the networks under test, and takes parameters under their published names and shapes, so that
it checks the translation of those as well. Points and pixels are rows [P, C], images [C, H, W].
"""

from tests.goldens.reference.discriminator import discriminate, discriminator_shapes, fir
from tests.goldens.reference.fields import background_field, foreground_field, mapping, motion_vector
from tests.goldens.reference.frames import synthesize
from tests.goldens.reference.rays import camera, directions, inverse_cdf, jittered, pixel_grid, sphere_points, weigh
from tests.goldens.reference.spec import SPECS, Spec, generator_shapes

__all__ = [
    "SPECS", "Spec", "background_field", "camera", "directions", "discriminate", "discriminator_shapes", "fir",
    "foreground_field", "generator_shapes", "inverse_cdf", "jittered", "mapping", "motion_vector", "pixel_grid",
    "sphere_points", "synthesize", "weigh",
]  # fmt: skip
