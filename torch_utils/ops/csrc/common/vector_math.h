// Elementary functions of floats without branches or tables, so that compilers vectorise loops over them (those of the
// C library are called one by one). Errors are below four units in the last place.
#pragma once

namespace vector_math {

// e^x = scale1 * scale2 * (1 + rest). The scales are two powers of two, because a float cannot hold 2^128 and 2^-150.
struct Exponential {
    float scale1, scale2, rest;
    HOST_DEVICE explicit Exponential(float x) {
        const float low = x < -104.0f ? -104.0f : x;
        const float c = low > 89.0f ? 89.0f : low;
        // x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer; ln 2 is split, so that n times its first part is
        // exact.
        const float n = (c * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
        const float r = (c - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
        // Taylor series for |r| < 0.35.
        rest = 1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040));
        rest = r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * (1.0f / 24 + r * rest))));
        const int whole = static_cast<int>(n == n ? n : 0.0f), half = whole >> 1;
        scale1 = bit_cast<float>((half + 127) << 23);
        scale2 = bit_cast<float>((whole - half + 127) << 23);
    }
};

HOST_DEVICE float exp(float x) {
    const Exponential e(x);
    return (1 + e.rest) * e.scale1 * e.scale2;  // a NaN in `rest` stays
}

HOST_DEVICE float expm1(float x) {
    const Exponential e(x);
    const float scale = e.scale1 * e.scale2;
    const float small = scale * e.rest + (scale - 1);
    return x > 80.0f ? (1 + e.rest) * e.scale1 * e.scale2 : small;
}

HOST_DEVICE float tanh(float x) {
    const float size = ::fabsf(x), t = size > 9.1f ? 9.1f : size;  // beyond, the result rounds to 1
    const float e = expm1(2 * t);
    return ::copysignf(e / (e + 2), x);
}

// log(1 + x) for x in [0, 1] = 2 artanh(x / (2 + x)), by its power series.
HOST_DEVICE float log1p_unit(float x) {
    const float s = x / (2 + x), q = s * s;
    const float high = 1.0f / 7 + q * (1.0f / 9 + q * (1.0f / 11 + q * (1.0f / 13)));
    return 2 * s + 2 * s * (q * (1.0f / 3 + q * (1.0f / 5 + q * high)));
}

}  // namespace vector_math
