// Common to the PyTorch operators upfirdn2d for CPU and CUDA tensors: schema, sizes, memory formats.
#pragma once

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../common/binding.h"
#include "upfirdn2d.h"

// Pairs come as (x, y), padding as (x before, x after, y before, y after); f is [taps] or [height, width].
#define UPFIRDN2D_SCHEMA \
    "upfirdn2d(Tensor x, Tensor f, int[] up, int[] down, int[] padding, bool flip, float gain) -> Tensor"

namespace upfirdn2d {

inline Axis axis_of(Index size, Index taps, Index up, Index down, Index before, Index after) {
    TORCH_CHECK(up > 0 && down > 0 && taps > 0, "upfirdn2d: factors and filter sizes must be positive");
    const Index spare = size * up + before + after - taps;
    TORCH_CHECK(spare >= 0, "upfirdn2d: the filter does not fit");
    return {size, spare / down + 1, taps, up, down, before};
}

// Calls run(arguments) for one pass with a filter of `taps` (height, width), and returns its result in the memory
// format of the input. The pointer to the filter is the caller's.
template <class Run>
at::Tensor pass(const at::Tensor& input, at::IntArrayRef taps, at::IntArrayRef up, at::IntArrayRef down,
                at::IntArrayRef padding, bool flip, double gain, const Run& run) {
    TORCH_CHECK(input.dim() == 4, "upfirdn2d: images must be [N, C, H, W]");
    TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4, "upfirdn2d: pairs and paddings needed");
    const auto format = input.suggest_memory_format();
    const bool planar = format == at::MemoryFormat::Contiguous;
    const at::Tensor x = input.contiguous(format);
    Arguments a;
    a.type = element_type(x.scalar_type(), "upfirdn2d");
    a.f = nullptr;
    a.flip = flip;
    a.gain = gain;
    a.images = planar ? x.size(0) * x.size(1) : x.size(0);
    a.channels = planar ? 1 : x.size(1);
    a.down = axis_of(x.size(2), taps[0], up[1], down[1], padding[2], padding[3]);
    a.along = axis_of(x.size(3), taps[1], up[0], down[0], padding[0], padding[1]);
    const at::Tensor y = at::empty({x.size(0), x.size(1), a.down.out, a.along.out}, x.options().memory_format(format));
    a.x = x.const_data_ptr();
    a.y = y.mutable_data_ptr();
    if (y.numel() > 0) run(a);
    return y;
}

}  // namespace upfirdn2d
