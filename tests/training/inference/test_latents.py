import dataclasses
import pathlib

import numpy as np
import pytest
import torch

from tests.small_network import SIZES
from training.inference.latents import CODE_SIZES, LATENT_SIZES, RowCodes, SeedLatents, seed_latents

DATA = pathlib.Path(__file__).resolve().parents[2] / "data" / "programs.npz"


def test_seed_0_equals_the_published_renderer():
    golden = np.load(DATA)
    codes = seed_latents(0, 0)
    assert np.array_equal(codes.z.numpy(), golden["z"].astype(np.float32))
    assert np.array_equal(codes.z_motion.numpy(), golden["z_motion"])
    assert np.array_equal(codes.z_bg.numpy(), golden["z_shape_bg"])


def test_content_and_motion_are_independent():
    a, b, c = seed_latents(3, 4), seed_latents(3, 5), seed_latents(6, 4)
    assert torch.equal(a.z, b.z) and torch.equal(a.z_bg, b.z_bg) and not torch.equal(a.z_motion, b.z_motion)
    assert torch.equal(a.z_motion, c.z_motion) and not torch.equal(a.z, c.z) and not torch.equal(a.z_bg, c.z_bg)


def test_no_global_random_state_is_touched():
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    seed_latents(1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_seeds_do_not_depend_on_the_default_type(double_by_default):
    codes, golden = seed_latents(0, 0), np.load(DATA)
    assert {x.dtype for x in (codes.z, codes.z_motion, codes.z_bg)} == {torch.float32}
    assert np.array_equal(codes.z_motion.numpy(), golden["z_motion"])
    assert np.array_equal(codes.z_bg.numpy(), golden["z_shape_bg"])


def test_sizes_follow_the_generator():
    codes = seed_latents(431, 431, z_dim=64, motion_dim=48, background_dim=16)
    assert (codes.z.shape, codes.z_motion.shape, codes.z_bg.shape) == ((1, 64), (1, 48), (1, 16))


def test_videos_are_joined_selected_moved_and_given_styles():
    parts = [seed_latents(seed, seed + 10, **SIZES) for seed in range(3)]
    latents = SeedLatents.join(parts)
    assert len(latents) == 3
    for part, one in zip(parts, (latents[:1], latents[1:2], latents[torch.tensor([2])])):
        assert type(one) is SeedLatents and list(vars(one)) == ["z", "z_motion", "z_bg"]
        assert all(torch.equal(codes, vars(part)[name]) for name, codes in vars(one).items())
    for one in (1, np.int64(1), torch.tensor(1)):
        assert torch.equal(latents[one].z, latents[1:2].z)
    assert torch.equal(latents[[2, 0]].z, latents.z[[2, 0]]) and torch.equal(latents[(2, 0)].z, latents.z[[2, 0]])
    assert [one.z_bg.shape for one in latents] == [(1, SIZES["background_dim"])] * 3
    ws = torch.rand(2, 5, 4)
    codes = latents[torch.tensor([2, 0])].with_styles(ws)
    assert type(codes) is RowCodes and codes.ws is ws
    assert torch.equal(codes.z_motion, torch.cat([parts[2].z_motion, parts[0].z_motion]))
    assert torch.equal(codes.z_bg, torch.cat([parts[2].z_bg, parts[0].z_bg]))
    double = codes.to("cpu", torch.float64)
    assert type(double) is RowCodes and {x.dtype for x in vars(double).values()} == {torch.float64}
    assert torch.equal(double.z_bg.float(), codes.z_bg) and codes.to("cpu").ws is ws
    for same in (codes.to(dtype=torch.float64), codes.to(torch.float64), codes.to(double.ws)):
        assert type(same) is RowCodes and all(torch.equal(x, vars(double)[name]) for name, x in vars(same).items())
    both = RowCodes.join([codes[1:], codes[:1]])
    assert torch.equal(both.ws, ws.flip(0)) and torch.equal(both.z_motion, codes.z_motion.flip(0))


def test_parts_that_cannot_be_joined():
    one = seed_latents(0, 0, **SIZES).with_styles(torch.zeros(1, 5, 4))
    for parts, given in (([], "[]"), (None, "[None]"), ([one, seed_latents(0, 0, **SIZES)], "[RowCodes")):
        with pytest.raises(ValueError) as error:
            RowCodes.join(parts)
        assert str(error.value).startswith(f"RowCodes.join takes one or more RowCodes, got {given}")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError) as error:
        RowCodes.join([one, dataclasses.replace(one, ws=torch.zeros(1, 6, 4))])
    assert str(error.value) == "parts[1].ws must be [videos, 5, 4], got [1, 6, 4]."
    with pytest.raises(ValueError) as error:
        RowCodes.join([one, one.to("meta")])
    assert str(error.value) == "parts[1].ws is on meta instead of cpu; move it with .to('cpu')."
    assert torch.equal(RowCodes.join(one[:i] for i in (0, 1, 1)).ws, torch.zeros(2, 5, 4))


def test_sizes_are_listed_as_the_codes_are():
    assert list(CODE_SIZES) == [field.name for field in dataclasses.fields(RowCodes)]
    sizes = dict(zip(LATENT_SIZES, (3, 4, 5), strict=True))
    latents = seed_latents(0, 0, **sizes)
    assert [field.name for field in dataclasses.fields(SeedLatents)] == list(vars(latents))
    assert [codes.shape[1] for codes in vars(latents).values()] == list(sizes.values())


@pytest.mark.parametrize("seeds, name", [((2**32, 0), "seed"), ((0, 2**32), "motion seed"), ((-1, 0), "seed")])
def test_seeds_out_of_range_are_named(seeds, name):
    with pytest.raises(ValueError, match=f"The {name} must lie between 0 and 4294967295"):
        seed_latents(*seeds)
