// upfirdn2d for CUDA tensors. Filters that are a vector take two passes.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "upfirdn2d_binding.h"

EXPORT const char* upfirdn2d_launch(const upfirdn2d::Arguments* arguments, void* stream);

namespace {

using namespace upfirdn2d;

at::Tensor upfirdn2d_cuda(const at::Tensor& x, const at::Tensor& filter, at::IntArrayRef up, at::IntArrayRef down,
                          at::IntArrayRef padding, bool flip, double gain) {
    TORCH_CHECK(x.is_cuda(), "upfirdn2d: a CUDA tensor is needed");
    TORCH_CHECK((filter.dim() == 1 || filter.dim() == 2) && filter.numel() > 0,
                "upfirdn2d: the filter must be a vector or a matrix");
    const c10::cuda::CUDAGuard guard(x.device());
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor f = filter.to(x.device(), type).contiguous();
    const auto launch = [&](Arguments a) {
        a.f = f.const_data_ptr();
        const char* error = upfirdn2d_launch(&a, c10::cuda::getCurrentCUDAStream().stream());
        TORCH_CHECK(error == nullptr, error);
    };
    if (f.dim() == 2) return pass(x, f.sizes(), up, down, padding, flip, gain, launch);
    const int64_t taps = f.numel();
    const auto column = [&](const at::Tensor& t, double factor) {
        return pass(t, {taps, 1}, {1, up[1]}, {1, down[1]}, {0, 0, padding[2], padding[3]}, flip, factor, launch);
    };
    const auto row = [&](const at::Tensor& t, double factor) {
        return pass(t, {1, taps}, {up[0], 1}, {down[0], 1}, {padding[0], padding[1], 0, 0}, flip, factor, launch);
    };
    // The smaller intermediate image first.
    return up[1] * down[0] <= up[0] * down[1] ? row(column(x, 1), gain) : column(row(x, 1), gain);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cuda, m) { m.def(UPFIRDN2D_SCHEMA, &upfirdn2d_cuda); }
