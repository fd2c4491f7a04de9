// CUDA kernel of upfirdn2d: a thread per output sample, neighbouring threads along a row. The filter is in shared
// memory; sharing the inputs that neighbours read is left to the caches.
#include "upfirdn2d.h"

namespace {

using namespace upfirdn2d;

constexpr unsigned THREADS_X = 64, THREADS_Y = 4;
constexpr Index MAX_FILTER_BYTES = 48 * 1024;  // shared memory that a block may use without opting in to more

// Up- and downsampling factors other than 0 are compile-time constants, which makes divisions by them cheap.
template <int UP, int DOWN>
HOST_DEVICE Axis with_factors(Axis axis) {
    if (UP > 0) axis.up = UP;
    if (DOWN > 0) axis.down = DOWN;
    return axis;
}

template <int UP, int DOWN, class T>
KERNEL upfirdn2d_kernel(Arguments a) {
    using C = ComputeType<T>;
    DYNAMIC_SHARED(C, taps);
    const Index count = a.down.taps * a.along.taps;
    const C* f = static_cast<const C*>(a.f);
    for (Index k = threadIdx.y * THREADS_X + threadIdx.x; k < count; k += THREADS_X * THREADS_Y)
        taps[k] = static_cast<C>(a.gain) * f[a.flip ? k : count - 1 - k];
    __syncthreads();

    a.down = with_factors<UP, DOWN>(a.down);
    a.along = with_factors<UP, DOWN>(a.along);
    const Index row = a.along.out * a.channels, i = thread_x();
    if (i >= row) return;
    // 64-bit divisions are slow on a GPU: rows below 2^31 samples use 32-bit ones.
    const Index o = row <= 2147483647 ? static_cast<uint32_t>(i) / static_cast<uint32_t>(a.channels) : i / a.channels;
    const Window wx = window(a.along, o);
    const T* x = static_cast<const T*>(a.x) + (i - o * a.channels);
    T* y = static_cast<T*>(a.y) + i;
    for (Index image = blockIdx.z; image < a.images; image += gridDim.z)
        for (Index oy = static_cast<Index>(blockIdx.y) * THREADS_Y + threadIdx.y; oy < a.down.out;
             oy += static_cast<Index>(gridDim.y) * THREADS_Y) {
            const Window wy = window(a.down, oy);
            const T* from = x + image * a.down.in * a.along.in * a.channels;
            y[(image * a.down.out + oy) * row] = T(pixel(from, a, taps, wy, wx));
        }
}

template <int UP, int DOWN, class T>
void launch(const Arguments& a, void* stream) {
    const dim3 block(THREADS_X, THREADS_Y);
    const dim3 grid(static_cast<unsigned>(divide_up(a.along.out * a.channels, THREADS_X)),
                    static_cast<unsigned>(math::min(divide_up(a.down.out, THREADS_Y), MAX_GRID_YZ)),
                    static_cast<unsigned>(math::min(a.images, MAX_GRID_YZ)));
    const size_t shared = a.down.taps * a.along.taps * sizeof(ComputeType<T>);
    LAUNCH_WITH_BARRIERS((upfirdn2d_kernel<UP, DOWN, T>), grid, block, shared, stream, a);
}

bool has_factors(const Arguments& a, Index up, Index down) {
    return a.down.up == up && a.along.up == up && a.down.down == down && a.along.down == down;
}

template <class T>
const char* run(const Arguments& a, void* stream) {
    if (a.images * a.down.out * a.along.out * a.channels == 0) return nullptr;
    if (divide_up(a.along.out * a.channels, THREADS_X) > MAX_GRID_X) return "upfirdn2d: rows are too long";
    if (a.down.taps * a.along.taps * static_cast<Index>(sizeof(ComputeType<T>)) > MAX_FILTER_BYTES)
        return "upfirdn2d: the filter has too many taps";
    if (has_factors(a, 1, 1))
        launch<1, 1, T>(a, stream);
    else if (has_factors(a, 2, 1))
        launch<2, 1, T>(a, stream);
    else if (has_factors(a, 1, 2))
        launch<1, 2, T>(a, stream);
    else
        launch<0, 0, T>(a, stream);
    return launch_error();
}

}  // namespace

EXPORT const char* upfirdn2d_launch(const upfirdn2d::Arguments* a, void* stream) {
    DISPATCH_ELEMENT_TYPE(a->type, T, return run<T>(*a, stream));
    return "upfirdn2d: unknown element type";
}
