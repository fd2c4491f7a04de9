// Volume compositing for CPU tensors, in parallel over rays. Results do not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/slice.h>

#include <algorithm>

#include "composite_binding.h"

namespace {

using namespace composite;

constexpr Index WORK = 1 << 14;  // least number of elements that is worth a thread
constexpr Index CHUNK = 128;     // channels that are summed at a time

// exp(-density * delta), by PyTorch's vectorised functions.
Tensor attenuation_of(const Tensor& density, const Tensor& deltas) {
    return at::mul(at::slice(density, 1, 0, deltas.size(1)), deltas).neg_().exp_();
}

void for_all_rays(const RayArguments& a, void (*one)(const RayArguments&, Index)) {
    at::parallel_for(0, a.rays, divide_up(WORK, a.samples), [&](int64_t begin, int64_t end) {
        for (Index r = begin; r < end; r++) one(a, r);
    });
}

std::tuple<Tensor, Tensor> ray_weights_cpu(const Tensor& density, const Tensor& deltas, bool last_opaque) {
    return forward(density, deltas, last_opaque, [](RayArguments a, const Tensor& density, const Tensor& deltas) {
        const Tensor attenuation = attenuation_of(density, deltas);
        a.attenuation = attenuation.const_data_ptr();
        for_all_rays(a, a.type == DOUBLE ? &forward_ray<double> : &forward_ray<float>);
    });
}

std::tuple<Tensor, Tensor> ray_weights_gradient_cpu(const Tensor& density, const Tensor& deltas, bool last_opaque,
                                                    const Tensor& grad_weights, const Tensor& grad_transmittance,
                                                    bool with_deltas) {
    const auto run = [](RayArguments a, const Tensor& density, const Tensor& deltas) {
        const Tensor attenuation = attenuation_of(density, deltas);
        a.attenuation = attenuation.const_data_ptr();
        for_all_rays(a, a.type == DOUBLE ? &backward_ray<double> : &backward_ray<float>);
    };
    return backward(density, deltas, last_opaque, grad_weights, grad_transmittance, with_deltas, run);
}

// sums[c] = sum over s of weights[s] * features[s][c], four samples at a time.
template <class T, class C>
void sum_chunk(const C* weights, const T* features, Index samples, Index stride, Index count, C* __restrict sums) {
    std::fill(sums, sums + count, C(0));
    Index s = 0;
    for (; s + 4 <= samples; s += 4) {
        const T *a = features + s * stride, *b = a + stride, *c = b + stride, *d = c + stride;
        const C u = weights[s], v = weights[s + 1], w = weights[s + 2], x = weights[s + 3];
#pragma omp simd
        for (Index i = 0; i < count; i++) sums[i] += u * C(a[i]) + v * C(b[i]) + w * C(c[i]) + x * C(d[i]);
    }
    for (; s < samples; s++) {
        const T* a = features + s * stride;
#pragma omp simd
        for (Index i = 0; i < count; i++) sums[i] += weights[s] * C(a[i]);
    }
}

template <class T>
void product_of_ray(const ProductArguments& a, Index r) {
    using C = ComputeType<T>;
    C* weights = static_cast<C*>(a.weights) + r * a.samples;
    T* features = static_cast<T*>(a.features) + r * a.samples * a.channels;
    T* row = static_cast<T*>(a.rows) + r * a.channels;
    if (a.product == SUM) {
        C sums[CHUNK];
        for (Index c = 0; c < a.channels; c += CHUNK) {
            const Index count = std::min(CHUNK, a.channels - c);
            sum_chunk(weights, features + c, a.samples, a.channels, count, sums);
            for (Index i = 0; i < count; i++) row[c + i] = T(sums[i]);
        }
        return;
    }
    for (Index s = 0; s < a.samples; s++) {
        T* feature = features + s * a.channels;
        if (a.product == DOTS) {
            C sum = 0;
#pragma omp simd reduction(+ : sum)
            for (Index c = 0; c < a.channels; c++) sum += C(row[c]) * C(feature[c]);
            weights[s] = sum;
        } else {
            const C weight = weights[s];
#pragma omp simd
            for (Index c = 0; c < a.channels; c++) feature[c] = T(weight * C(row[c]));
        }
    }
}

void run_product(const ProductArguments& a) {
    at::parallel_for(0, a.rays, divide_up(WORK, a.samples * a.channels), [&](int64_t begin, int64_t end) {
        DISPATCH_ELEMENT_TYPE(a.type, T, for (Index r = begin; r < end; r++) product_of_ray<T>(a, r));
    });
}

Tensor weighted_sum_cpu(const Tensor& weights, const Tensor& features) {
    return product(SUM, weights, features, {}, run_product);
}
Tensor dots_cpu(const Tensor& rows, const Tensor& features) { return product(DOTS, {}, features, rows, run_product); }
Tensor outer_cpu(const Tensor& weights, const Tensor& rows) { return product(OUTER, weights, {}, rows, run_product); }

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
    m.def(COMPOSITE_FORWARD_SCHEMA, &ray_weights_cpu);
    m.def(COMPOSITE_BACKWARD_SCHEMA, &ray_weights_gradient_cpu);
    m.def(COMPOSITE_SUM_SCHEMA, &weighted_sum_cpu);
    m.def(COMPOSITE_DOTS_SCHEMA, &dots_cpu);
    m.def(COMPOSITE_OUTER_SCHEMA, &outer_cpu);
}
