// y = clamp(gain * act(x + b), -limit, limit) and its derivatives, for one element.
//
// Tensors are traversed in memory order, whatever their layout: element i has the bias (i / inner) % channels.
#pragma once

#include "../common/platform.h"

namespace bias_act {

enum Activation : int { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

enum Operation : int {
    FORWARD,               // y
    GRADIENT_FROM_OUTPUT,  // dy/dx * dy, `x` being y: for a piecewise linear act and gain > 0, where y tells the branch
    GRADIENT,              // dy/dx * dy
    CURVATURE,             // d²y/dx² * dy * ddx
};

// Arguments of a launch; tests mirror it with ctypes.
struct Arguments {
    const void *x, *b, *dy, *ddx;  // [count], [channels] or null, [count], [count]
    void* out;                     // [count]
    Index count, channels, inner;
    double alpha, gain, limit;  // slope of LRELU below zero, output gain, clamp; a NaN as limit means none
    int type, act, operation;
};

template <class C>
struct Parameters {
    C alpha, gain, limit;
    C inner_gain, outer_gain;  // act(s * x) = s * act(x), s > 0, lets the gain move inside, where a bias addition is

    // For elements of type T. The limit is rounded to T, so that a clamped result equals it also when stored.
    template <class T>
    Parameters(const Arguments& a, T)
        : alpha(a.alpha), gain(a.gain), limit(static_cast<C>(T(static_cast<C>(a.limit)))) {
        const bool inside = a.act <= LRELU && a.gain > 0;
        inner_gain = inside ? gain : C(1);
        outer_gain = inside ? C(1) : gain;
    }
};

template <class C>
constexpr C SELU_SCALE = C(1.0507009873554804934);
template <class C>
constexpr C SELU_ALPHA = C(1.6732632423543772848);

template <class C>
HOST_DEVICE C sigmoid(C v) {
    return C(1) / (C(1) + math::exp(-v));
}

template <int act, class C>
HOST_DEVICE C value(C v, C alpha) {
    if constexpr (act == LINEAR) return v;
    // Not max(v, 0): NaNs must stay NaNs.
    if constexpr (act == RELU) return v <= 0 ? C(0) : v;
    if constexpr (act == LRELU) return v > 0 ? v : v * alpha;
    if constexpr (act == TANH) return math::tanh(v);
    if constexpr (act == SIGMOID) return sigmoid(v);
    if constexpr (act == ELU || act == SELU) {
        const C below = math::expm1(v);  // computed for both branches, so that loops are vectorised
        return act == ELU ? (v > 0 ? v : below) : SELU_SCALE<C> * (v > 0 ? v : SELU_ALPHA<C> * below);
    }
    if constexpr (act == SOFTPLUS) {  // log(1 + e^v)
        const C soft = (v > 0 ? v : C(0)) + math::log1p_unit(math::exp(-math::abs(v)));
        return v > 20 ? v : soft;
    }
    if constexpr (act == SWISH) return v * sigmoid(v);
}

template <int act, class C>
HOST_DEVICE C slope(C v, C alpha) {
    if constexpr (act == LINEAR) return C(1);
    if constexpr (act == RELU) return v > 0 ? C(1) : C(0);
    if constexpr (act == LRELU) return v > 0 ? C(1) : alpha;
    if constexpr (act == TANH) {
        const C t = math::tanh(v);
        return C(1) - t * t;
    }
    if constexpr (act == SIGMOID) {
        const C s = sigmoid(v);
        return s * (C(1) - s);
    }
    if constexpr (act == ELU || act == SELU) {
        const C below = math::exp(v);
        return act == ELU ? (v > 0 ? C(1) : below) : SELU_SCALE<C> * (v > 0 ? C(1) : SELU_ALPHA<C> * below);
    }
    if constexpr (act == SOFTPLUS) {
        const C s = sigmoid(v);
        return v > 20 ? C(1) : s;
    }
    if constexpr (act == SWISH) {
        const C s = sigmoid(v);
        return s * (C(1) + v * (C(1) - s));
    }
}

template <int act, class C>
HOST_DEVICE C curvature(C v) {
    if constexpr (act <= LRELU) return C(0);
    if constexpr (act == TANH) {
        const C t = math::tanh(v);
        return C(-2) * t * (C(1) - t * t);
    }
    if constexpr (act == SIGMOID) {
        const C s = sigmoid(v);
        return s * (C(1) - s) * (C(1) - C(2) * s);
    }
    if constexpr (act == ELU || act == SELU) {
        const C below = math::exp(v);
        return v > 0 ? C(0) : (act == ELU ? C(1) : SELU_SCALE<C> * SELU_ALPHA<C>) * below;
    }
    if constexpr (act == SOFTPLUS) {
        const C s = sigmoid(v);
        return v > 20 ? C(0) : s * (C(1) - s);
    }
    if constexpr (act == SWISH) {
        const C s = sigmoid(v);
        return s * (C(1) - s) * (C(2) + v * (C(1) - C(2) * s));
    }
}

// One element of an operation. `b` comes multiplied by inner_gain. Comparisons with a NaN limit are false.
template <int act, int operation, class C>
HOST_DEVICE C element(C x, C b, C dy, C ddx, const Parameters<C>& p) {
    if constexpr (operation == GRADIENT_FROM_OUTPUT) {
        const C dx = dy * (p.gain * slope<act>(x, p.alpha));
        return math::abs(x) >= p.limit ? C(0) : dx;
    } else {
        const C v = x * p.inner_gain + b;
        const C y = value<act>(v, p.alpha) * p.outer_gain;
        if constexpr (operation == FORWARD) {
            const C low = y < -p.limit ? -p.limit : y;
            return low > p.limit ? p.limit : low;
        }
        const bool clamped = math::abs(y) >= p.limit;
        if constexpr (operation == GRADIENT) {
            return clamped ? C(0) : dy * (p.gain * slope<act>(v, p.alpha));
        } else {
            return clamped ? C(0) : ddx * dy * (p.gain * curvature<act>(v));
        }
    }
}

// True if an operation exists for an activation; no code is generated for other pairs.
constexpr bool exists(int act, int operation) {
    return operation == GRADIENT_FROM_OUTPUT ? act <= LRELU : operation == CURVATURE ? act > LRELU : true;
}

// Calls `function` with an activation and an operation as constants.
template <class Function>
void with_constants(int act, int operation, const Function& function) {
    with_constant<LINEAR, SWISH>(act, [&](auto act_constant) {
        constexpr int ACT = decltype(act_constant)::value;
        with_constant<FORWARD, CURVATURE>(operation, [&](auto operation_constant) {
            if constexpr (exists(ACT, decltype(operation_constant)::value)) {
                function(std::integral_constant<int, ACT>(), operation_constant);
            }
        });
    });
}

}  // namespace bias_act
