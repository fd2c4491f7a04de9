// Sums of rows, the basic step of upfirdn2d on the CPU: several neighbours are computed at once to load inputs once.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "upfirdn2d.h"

namespace upfirdn2d {

constexpr int BLOCK = 4;       // neighbouring sums computed at once
constexpr Index MAX_TAPS = 6;  // taps per pass

// to[r][i] (+)= sum over k of taps[k] * from[r * STEP + k][i], for r < ROWS and i < count.
template <int TAPS, int ROWS, int STEP, bool ADD, class T>
void combine_fixed(T* const* to, const T* const* from, const T* taps, Index count) {
    constexpr int INPUTS = (ROWS - 1) * STEP + TAPS;
    const T* in[INPUTS];
    T *out[ROWS], w[TAPS];
    for (int k = 0; k < INPUTS; k++) in[k] = from[k];
    for (int r = 0; r < ROWS; r++) out[r] = to[r];
    for (int k = 0; k < TAPS; k++) w[k] = taps[k];
#pragma GCC ivdep
    for (Index i = 0; i < count; i++) {
        T v[INPUTS];
#pragma GCC unroll 16
        for (int k = 0; k < INPUTS; k++) v[k] = in[k][i];
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            T sum = ADD ? out[r][i] + w[0] * v[r * STEP] : w[0] * v[r * STEP];
#pragma GCC unroll 8
            for (int k = 1; k < TAPS; k++) sum += w[k] * v[r * STEP + k];
            out[r][i] = sum;
        }
    }
}

template <int ROWS, int STEP, bool ADD, class T>
void combine_some(T* const* to, const T* const* from, const T* taps, Index number, Index count) {
    static_assert(MAX_TAPS == 6);
    switch (number) {
        case 1: return combine_fixed<1, ROWS, STEP, ADD>(to, from, taps, count);
        case 2: return combine_fixed<2, ROWS, STEP, ADD>(to, from, taps, count);
        case 3: return combine_fixed<3, ROWS, STEP, ADD>(to, from, taps, count);
        case 4: return combine_fixed<4, ROWS, STEP, ADD>(to, from, taps, count);
        case 5: return combine_fixed<5, ROWS, STEP, ADD>(to, from, taps, count);
        case 6: return combine_fixed<6, ROWS, STEP, ADD>(to, from, taps, count);
    }
}

// The same with any number of taps; adds to the results if `add`, else overwrites them.
template <int ROWS, int STEP, class T>
void combine(T* const* to, const T* const* from, const T* taps, Index number, Index count, bool add) {
    if (number == 0 && !add)
        for (int r = 0; r < ROWS; r++) std::fill(to[r], to[r] + count, T(0));
    for (Index done = 0; done < number; done += MAX_TAPS) {
        const Index now = std::min(number - done, MAX_TAPS);
        if (add || done > 0)
            combine_some<ROWS, STEP, true>(to, from + done, taps + done, now, count);
        else
            combine_some<ROWS, STEP, false>(to, from + done, taps + done, now, count);
    }
}

// Copies that bypass the caches, for results too large for them: memory need not be read before it is written.
template <class T>
void stream(T* to, const T* from, Index count) {
    Index i = 0;
#if defined(__AVX__)
    constexpr Index LANES = 32 / sizeof(T);
    while (i < count && reinterpret_cast<uintptr_t>(to + i) % 32 != 0) to[i] = from[i], i++;
    for (; i + LANES <= count; i += LANES) {
        const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
        _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), bits);
    }
#endif
    for (; i < count; i++) to[i] = from[i];
}

inline void end_of_streams() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}

}  // namespace upfirdn2d
