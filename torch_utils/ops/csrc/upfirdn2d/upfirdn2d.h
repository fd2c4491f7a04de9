// The mathematics of upfirdn2d along one axis, for CPU and GPU alike.
//
// An axis is upsampled by zeros, padded, correlated with taps, downsampled. Output o is the sum over k of
// taps[k] * upsampled[o * down - pad + k], and upsampled[u] is input[u / up] where `up` divides u, zero elsewhere. So
// only every up-th tap meets an input: tap, tap + up, tap + 2 up, … meet input, input + 1, input + 2, …
#pragma once

#include "../common/platform.h"

namespace upfirdn2d {

struct Axis {
    Index in, out;   // samples
    Index taps;
    Index up, down;
    Index pad;       // before the first sample, at the upsampled rate; negative: cropping
};

struct Window {
    Index input, tap;  // the first pair
    Index count;       // number of pairs
};

HOST_DEVICE Index ceil_divide(Index a, Index b) { return a > 0 ? (a + b - 1) / b : -((-a) / b); }

// Taps and inputs that meet in output `o`, without regard to the ends of the input.
HOST_DEVICE Window unbounded_window(const Axis& axis, Index o) {
    const Index first = o * axis.down - axis.pad;
    const Index input = ceil_divide(first, axis.up);
    const Index tap = input * axis.up - first;
    return {input, tap, tap < axis.taps ? (axis.taps - tap + axis.up - 1) / axis.up : 0};
}

// Taps and inputs that meet in output `o`: pairs whose input lies outside of [0, in) are left out.
HOST_DEVICE Window window(const Axis& axis, Index o) {
    Window w = unbounded_window(axis, o);
    const Index missing = math::max<Index>(-w.input, 0);
    w.input += missing;
    w.tap += missing * axis.up;
    w.count = math::min(w.count - missing, axis.in - w.input);
    return {w.input, w.tap, math::max<Index>(w.count, 0)};
}

// Images in memory order [image][row][pixel][channel]: planar images are images of one channel.
struct Arguments {
    int type;  // ElementType
    const void* x;
    void* y;
    const void* f;  // ComputeType [y.taps][x.taps]
    bool flip;      // f is the filter of a correlation, not of a convolution
    double gain;
    Index images, channels;
    Axis down, along;  // columns and rows
};

// One output sample: `from` is sample (0, 0) of a channel, f holds correlation taps [taps_y][taps_x].
template <class T, class Compute = ComputeType<T>>
HOST_DEVICE Compute pixel(const T* from, const Arguments& a, const Compute* f, const Window& wy, const Window& wx) {
    const Index pixel_stride = a.channels, row_stride = a.along.in * a.channels;
    from += wy.input * row_stride + wx.input * pixel_stride;
    f += wy.tap * a.along.taps + wx.tap;
    Compute sum = 0;
    for (Index i = 0; i < wy.count; i++) {
        for (Index j = 0; j < wx.count; j++)
            sum += f[j * a.along.up] * static_cast<Compute>(from[j * pixel_stride]);
        from += row_stride;
        f += a.down.up * a.along.taps;
    }
    return sum;
}

}  // namespace upfirdn2d
