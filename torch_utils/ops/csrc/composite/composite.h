// The mathematics of volume compositing, per ray and per element, for CPU and GPU alike (NeRF, equation 3).
//
// A ray has S samples: S densities, the last of which is not used, and S - 1 step lengths between them. With
// alpha_i = 1 - exp(-density_i * delta_i), alpha of the last sample 1 or 0, passed_i = 1 - alpha_i + 1e-10 and
// T_i = passed_0 * ... * passed_{i-1}, the weight of sample i is alpha_i * T_i, and T of the last sample is the
// transmittance left for a background. Values of rays are float or double; features have any type.
#pragma once

#include "../common/platform.h"

namespace composite {

struct RayArguments {
    int type;  // FLOAT or DOUBLE
    Index rays, samples;
    bool last_opaque;
    const void *density, *deltas;  // [rays][samples], [rays][samples - 1]
    const void* attenuation;       // exp(-density * delta), [rays][samples - 1]; null: not yet computed
    void *weights, *transmittance;  // [rays][samples], [rays]
    // For the derivative: the given gradients of the results, and those of the arguments, to be written.
    const void *grad_weights, *grad_transmittance;
    void *grad_density, *grad_deltas;
};

// The three products of weights or gradients with features, which are each other's derivatives.
enum Product : int {
    SUM = 0,    // rows[r][c] = sum over s of weights[r][s] * features[r][s][c]
    DOTS = 1,   // weights[r][s] = sum over c of rows[r][c] * features[r][s][c]
    OUTER = 2,  // features[r][s][c] = weights[r][s] * rows[r][c]
};

struct ProductArguments {
    int product;
    int type;  // ElementType of features and rows; weights have its ComputeType
    Index rays, samples, channels;
    void *weights, *features, *rows;
};

template <class C>
struct Alpha {
    C alpha, passed;
};

template <class C>
HOST_DEVICE Alpha<C> alpha_of(C attenuation) {
    const C alpha = C(1) - attenuation;
    return {alpha, C(1) - alpha + C(1e-10)};
}

// exp(-density * delta) of sample i of one ray.
template <class C>
HOST_DEVICE C attenuation_of(const C* density, const C* deltas, const C* known, Index i) {
    return known != nullptr ? known[i] : math::exp(-density[i] * deltas[i]);
}

// Weights of one ray; returns the transmittance at its last sample.
template <class C>
HOST_DEVICE C ray_weights(const C* density, const C* deltas, const C* known, Index samples, bool last_opaque,
                          C* weights) {
    C transmittance = 1;
    for (Index i = 0; i < samples - 1; i++) {
        const Alpha<C> a = alpha_of(attenuation_of(density, deltas, known, i));
        weights[i] = a.alpha * transmittance;
        transmittance *= a.passed;
    }
    weights[samples - 1] = last_opaque ? transmittance : C(0);
    return transmittance;
}

// Gradients of one ray's densities and step lengths (null: not requested).
template <class C>
HOST_DEVICE void ray_weights_gradient(const C* density, const C* deltas, const C* known, Index samples,
                                      bool last_opaque, const C* grad_weights, C grad_transmittance, C* grad_density,
                                      C* grad_deltas) {
    // Transmittances are stored in place of the gradients: recovering them by division would fail at opaque samples.
    C transmittance = 1;
    for (Index i = 0; i < samples - 1; i++) {
        grad_density[i] = transmittance;
        transmittance *= alpha_of(attenuation_of(density, deltas, known, i)).passed;
    }
    grad_density[samples - 1] = 0;
    C grad = grad_transmittance + (last_opaque ? grad_weights[samples - 1] : C(0));  // of T of sample i + 1
    for (Index i = samples - 2; i >= 0; i--) {
        const C attenuation = attenuation_of(density, deltas, known, i);
        const Alpha<C> a = alpha_of(attenuation);
        const C grad_exponent = (grad_weights[i] - grad) * grad_density[i] * attenuation;  // of density * delta
        grad = grad_weights[i] * a.alpha + grad * a.passed;
        grad_density[i] = grad_exponent * deltas[i];
        if (grad_deltas != nullptr) grad_deltas[i] = grad_exponent * density[i];
    }
}

// Ray r of all rays.
template <class C>
HOST_DEVICE void forward_ray(const RayArguments& a, Index r) {
    const Index s = a.samples, steps = s - 1;
    const C* known = static_cast<const C*>(a.attenuation);
    static_cast<C*>(a.transmittance)[r] =
        ray_weights(static_cast<const C*>(a.density) + r * s, static_cast<const C*>(a.deltas) + r * steps,
                    known == nullptr ? known : known + r * steps, s, a.last_opaque, static_cast<C*>(a.weights) + r * s);
}

template <class C>
HOST_DEVICE void backward_ray(const RayArguments& a, Index r) {
    const Index s = a.samples, steps = s - 1;
    const C* known = static_cast<const C*>(a.attenuation);
    C* grad_deltas = static_cast<C*>(a.grad_deltas);
    ray_weights_gradient(static_cast<const C*>(a.density) + r * s, static_cast<const C*>(a.deltas) + r * steps,
                         known == nullptr ? known : known + r * steps, s, a.last_opaque,
                         static_cast<const C*>(a.grad_weights) + r * s,
                         static_cast<const C*>(a.grad_transmittance)[r], static_cast<C*>(a.grad_density) + r * s,
                         grad_deltas == nullptr ? grad_deltas : grad_deltas + r * steps);
}

}  // namespace composite
