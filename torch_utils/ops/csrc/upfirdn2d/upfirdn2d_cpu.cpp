// upfirdn2d for CPU tensors, in parallel over images and bands of rows. Results do not depend on the number of threads.
#include <ATen/Parallel.h>

#include "upfirdn2d_binding.h"
#include "upfirdn2d_rows.h"

namespace {

using namespace upfirdn2d;

constexpr Index BAND = 32;        // output rows of a task
constexpr Index WORK = 1 << 14;   // least number of outputs that is worth a thread
constexpr Index LARGE = 1 << 23;  // bytes of a result that is too large to stay in a cache until it is read

// [taps] or [height, width] to correlation taps [height][width].
std::vector<double> correlation_taps(const at::Tensor& filter, bool flip, double gain) {
    const at::Tensor f = filter.to(at::kDouble).contiguous();
    const double* p = f.const_data_ptr<double>();
    std::vector<double> taps(p, p + f.numel());
    if (f.dim() == 1) {
        std::vector<double> outer;
        for (double a : taps)
            for (double b : taps) outer.push_back(a * b);
        taps = outer;
    }
    if (!flip) std::reverse(taps.begin(), taps.end());
    for (double& tap : taps) tap *= gain;
    return taps;
}

template <class T>
void run(const Arguments& a, const std::vector<double>& taps) {
    const Plan<ComputeType<T>> plan(a.down, a.along, a.channels, taps);
    const Index in = a.down.in * a.along.in * a.channels, row = a.along.out * a.channels, out = a.down.out * row;
    const Index bands = divide_up(a.down.out, BAND), band_size = std::min(BAND, a.down.out) * row;
    const bool stream = a.images * out * static_cast<Index>(sizeof(T)) >= LARGE && a.channels >= WIDE;
    at::parallel_for(0, a.images * bands, divide_up(WORK, band_size), [&](int64_t begin, int64_t end) {
        RowFilter<T> filter(plan, stream);
        for (Index i = begin; i < end; i++) {
            const Index image = i / bands, first = i % bands * BAND;
            filter.run(static_cast<const T*>(a.x) + image * in, static_cast<T*>(a.y) + image * out, first,
                       std::min(first + BAND, a.down.out));
        }
    });
}

at::Tensor upfirdn2d_cpu(const at::Tensor& x, const at::Tensor& f, at::IntArrayRef up, at::IntArrayRef down,
                         at::IntArrayRef padding, bool flip, double gain) {
    TORCH_CHECK(x.device().is_cpu() && f.device().is_cpu(), "upfirdn2d: tensors on the CPU are needed");
    TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "upfirdn2d: the filter must be a vector or a matrix");
    return pass(x, {f.size(0), f.size(-1)}, up, down, padding, flip, gain, [&](const Arguments& a) {
        const std::vector<double> taps = correlation_taps(f, flip, gain);
        DISPATCH_ELEMENT_TYPE(a.type, T, run<T>(a, taps));
    });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) { m.def(UPFIRDN2D_SCHEMA, &upfirdn2d_cpu); }
