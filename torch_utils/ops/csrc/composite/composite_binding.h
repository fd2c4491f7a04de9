// Common to the PyTorch operators of compositing for CPU and CUDA tensors: checks, sizes, results.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "../common/binding.h"
#include "composite.h"

// Rays are the rows of matrices: density [R, S], deltas [R, S - 1], transmittance [R], features [R, S, C], rows [R, C].
#define COMPOSITE_FORWARD_SCHEMA "ray_weights(Tensor density, Tensor deltas, bool last_opaque) -> (Tensor, Tensor)"
#define COMPOSITE_BACKWARD_SCHEMA                                                                  \
    "ray_weights_gradient(Tensor density, Tensor deltas, bool last_opaque, Tensor grad_weights, " \
    "Tensor grad_transmittance, bool with_deltas) -> (Tensor, Tensor)"
#define COMPOSITE_SUM_SCHEMA "weighted_sum(Tensor weights, Tensor features) -> Tensor"
#define COMPOSITE_DOTS_SCHEMA "weighted_sum_dots(Tensor rows, Tensor features) -> Tensor"
#define COMPOSITE_OUTER_SCHEMA "weighted_sum_outer(Tensor weights, Tensor rows) -> Tensor"

namespace composite {

using at::Tensor;

inline at::ScalarType compute_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

inline RayArguments ray_arguments(const Tensor& density, const Tensor& deltas, bool last_opaque) {
    TORCH_CHECK(density.dim() == 2 && deltas.dim() == 2 && density.size(1) >= 1 && deltas.size(0) == density.size(0) &&
                    deltas.size(1) == density.size(1) - 1,
                "composite: density [R, S] and deltas [R, S - 1] are needed");
    TORCH_CHECK(density.scalar_type() == deltas.scalar_type() && density.scalar_type() == compute_type(density) &&
                    density.device() == deltas.device(),
                "composite: density and deltas must both be float or double, on one device");
    RayArguments a{};
    a.type = element_type(density.scalar_type(), "composite");
    a.rays = density.size(0);
    a.samples = density.size(1);
    a.last_opaque = last_opaque;
    a.density = density.const_data_ptr();
    a.deltas = deltas.const_data_ptr();
    return a;
}

template <class Run>
std::tuple<Tensor, Tensor> forward(const Tensor& density_, const Tensor& deltas_, bool last_opaque, const Run& run) {
    const Tensor density = density_.contiguous(), deltas = deltas_.contiguous();
    RayArguments a = ray_arguments(density, deltas, last_opaque);
    const Tensor weights = at::empty_like(density), transmittance = at::empty({a.rays}, density.options());
    a.weights = weights.mutable_data_ptr();
    a.transmittance = transmittance.mutable_data_ptr();
    run(a, density, deltas);
    return {weights, transmittance};
}

template <class Run>
std::tuple<Tensor, Tensor> backward(const Tensor& density_, const Tensor& deltas_, bool last_opaque,
                                    const Tensor& grad_weights_, const Tensor& grad_transmittance_, bool with_deltas,
                                    const Run& run) {
    const Tensor density = density_.contiguous(), deltas = deltas_.contiguous();
    const Tensor grad_weights = grad_weights_.to(density.options()).contiguous();
    const Tensor grad_transmittance = grad_transmittance_.to(density.options()).contiguous();
    RayArguments a = ray_arguments(density, deltas, last_opaque);
    TORCH_CHECK(grad_weights.sizes() == density.sizes() && grad_transmittance.numel() == a.rays,
                "composite: gradients of the wrong shape");
    const Tensor grad_density = at::empty_like(density);
    const Tensor grad_deltas = with_deltas ? at::empty_like(deltas) : at::empty({0}, deltas.options());
    a.grad_weights = grad_weights.const_data_ptr();
    a.grad_transmittance = grad_transmittance.const_data_ptr();
    a.grad_density = grad_density.mutable_data_ptr();
    a.grad_deltas = with_deltas ? grad_deltas.mutable_data_ptr() : nullptr;
    run(a, density, deltas);
    return {grad_density, grad_deltas};
}

// One of the products; its factors are two of weights [R, S], features [R, S, C], rows [R, C]; the third is undefined.
template <class Run>
Tensor product(int kind, const Tensor& weights_, const Tensor& features_, const Tensor& rows_, const Run& run) {
    const auto plain = [](const Tensor& x) { return x.defined() ? x.contiguous() : x; };
    Tensor weights = plain(weights_), features = plain(features_), rows = plain(rows_);
    const Tensor& typed = kind == OUTER ? rows : features;
    const Index rays = typed.size(0), samples = kind == OUTER ? weights.size(-1) : features.size(1);
    const Index channels = typed.size(-1);
    const auto compute = compute_type(typed);
    if (kind == SUM) {
        rows = at::empty({rays, channels}, typed.options());
    } else if (kind == DOTS) {
        weights = at::empty({rays, samples}, typed.options().dtype(compute));
    } else {
        features = at::empty({rays, samples, channels}, typed.options());
    }
    TORCH_CHECK(weights.sizes() == at::IntArrayRef({rays, samples}) && rows.sizes() == at::IntArrayRef({rays, channels}) &&
                    features.sizes() == at::IntArrayRef({rays, samples, channels}),
                "composite: weights [R, S], features [R, S, C] and rows [R, C] are needed");
    TORCH_CHECK(weights.scalar_type() == compute && features.scalar_type() == rows.scalar_type() &&
                    weights.device() == rows.device() && rows.device() == features.device(),
                "composite: types or devices do not fit each other");
    Tensor& result = kind == SUM ? rows : kind == DOTS ? weights : features;
    if (rays * samples * channels == 0) return result.zero_();
    const int type = element_type(typed.scalar_type(), "composite");
    run(ProductArguments{kind, type, rays, samples, channels, weights.data_ptr(), features.data_ptr(), rows.data_ptr()});
    return result;
}

}  // namespace composite
