// CUDA kernel of bias_act: one pass over memory, four elements per thread.
#include "bias_act.h"

namespace {

using namespace bias_act;

constexpr int THREADS = 256, ITEMS = 4;

// Channel of element i. 64-bit divisions are slow on a GPU: tensors below 2^31 elements use 32-bit ones.
HOST_DEVICE Index channel_of(Index i, const Arguments& a) {
    if (a.count <= 2147483647) {
        return static_cast<uint32_t>(i) / static_cast<uint32_t>(a.inner) % static_cast<uint32_t>(a.channels);
    }
    return i / a.inner % a.channels;
}

template <int act, int operation, class T>
KERNEL bias_act_kernel(Arguments a, Parameters<ComputeType<T>> p) {
    using C = ComputeType<T>;
    const T* x = static_cast<const T*>(a.x);
    const T* b = static_cast<const T*>(a.b);
    const T* dy = static_cast<const T*>(a.dy);
    const T* ddx = static_cast<const T*>(a.ddx);
    T* out = static_cast<T*>(a.out);
    const Index first = static_cast<Index>(blockIdx.x) * (THREADS * ITEMS) + threadIdx.x;
#pragma unroll
    for (int k = 0; k < ITEMS; k++) {
        const Index i = first + k * THREADS;
        if (i >= a.count) return;
        const C bias = b == nullptr ? C(0) : static_cast<C>(b[channel_of(i, a)]) * p.inner_gain;
        const C g = operation == FORWARD ? C(0) : static_cast<C>(dy[i]);
        const C h = operation == CURVATURE ? static_cast<C>(ddx[i]) : C(0);
        out[i] = T(element<act, operation>(static_cast<C>(x[i]), bias, g, h, p));
    }
}

}  // namespace

EXPORT const char* bias_act_launch(const bias_act::Arguments* a, void* stream) {
    if (a->count == 0) return nullptr;
    const Index blocks = divide_up(a->count, THREADS * ITEMS);
    if (blocks > MAX_GRID_X) return "bias_act: too many elements";
    with_constants(a->act, a->operation, [&](auto act, auto operation) {
        DISPATCH_ELEMENT_TYPE(a->type, T,
                              LAUNCH((bias_act_kernel<decltype(act)::value, decltype(operation)::value, T>),
                                     dim3(static_cast<unsigned>(blocks)), dim3(THREADS), 0, stream, *a,
                                     Parameters<ComputeType<T>>(*a, T())));
    });
    return launch_error();
}
