// Volume compositing for CUDA tensors.
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "composite_binding.h"

EXPORT const char* composite_rays_launch(const composite::RayArguments* arguments, void* stream);
EXPORT const char* composite_product_launch(const composite::ProductArguments* arguments, void* stream);

namespace {

using namespace composite;

void check(const char* error) { TORCH_CHECK(error == nullptr, "composite: ", error); }

void run_rays(const RayArguments& a, const Tensor&, const Tensor&) {
    check(composite_rays_launch(&a, c10::cuda::getCurrentCUDAStream().stream()));
}

void run_product(const ProductArguments& a) {
    check(composite_product_launch(&a, c10::cuda::getCurrentCUDAStream().stream()));
}

c10::cuda::CUDAGuard on_device_of(const Tensor& x) {
    TORCH_CHECK(x.is_cuda(), "composite: CUDA tensors are needed");
    return c10::cuda::CUDAGuard(x.device());
}

std::tuple<Tensor, Tensor> ray_weights_cuda(const Tensor& density, const Tensor& deltas, bool last_opaque) {
    const auto guard = on_device_of(density);
    return forward(density, deltas, last_opaque, run_rays);
}

std::tuple<Tensor, Tensor> ray_weights_gradient_cuda(const Tensor& density, const Tensor& deltas, bool last_opaque,
                                                     const Tensor& grad_weights, const Tensor& grad_transmittance,
                                                     bool with_deltas) {
    const auto guard = on_device_of(density);
    return backward(density, deltas, last_opaque, grad_weights, grad_transmittance, with_deltas, run_rays);
}

Tensor weighted_sum_cuda(const Tensor& weights, const Tensor& features) {
    const auto guard = on_device_of(features);
    return product(SUM, weights, features, {}, run_product);
}

Tensor dots_cuda(const Tensor& rows, const Tensor& features) {
    const auto guard = on_device_of(features);
    return product(DOTS, {}, features, rows, run_product);
}

Tensor outer_cuda(const Tensor& weights, const Tensor& rows) {
    const auto guard = on_device_of(rows);
    return product(OUTER, weights, {}, rows, run_product);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cuda, m) {
    m.def(COMPOSITE_FORWARD_SCHEMA, &ray_weights_cuda);
    m.def(COMPOSITE_BACKWARD_SCHEMA, &ray_weights_gradient_cuda);
    m.def(COMPOSITE_SUM_SCHEMA, &weighted_sum_cuda);
    m.def(COMPOSITE_DOTS_SCHEMA, &dots_cuda);
    m.def(COMPOSITE_OUTER_SCHEMA, &outer_cuda);
}
