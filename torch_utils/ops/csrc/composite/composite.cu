// CUDA kernels of volume compositing: a thread per ray for weights and their gradients, a thread per element for sums
// and outer products of features, a row of threads per sample for dot products.
#include "composite.h"

namespace {

using namespace composite;

constexpr unsigned THREADS = 128, LANES = 32, SAMPLES = 8;  // per block; the latter two for dot products

template <class C, bool BACKWARD>
KERNEL ray_kernel(RayArguments a) {
    const Index r = thread_x();
    if (r >= a.rays) return;
    if (BACKWARD)
        backward_ray<C>(a, r);
    else
        forward_ray<C>(a, r);
}

template <class T>
KERNEL sum_kernel(ProductArguments a) {
    using C = ComputeType<T>;
    GRID_STRIDE_LOOP(i, a.rays * a.channels) {
        const Index r = i / a.channels;
        const C* weights = static_cast<const C*>(a.weights) + r * a.samples;
        const T* features = static_cast<const T*>(a.features) + r * a.samples * a.channels + (i - r * a.channels);
        C sum = 0;
        for (Index s = 0; s < a.samples; s++) sum += weights[s] * static_cast<C>(features[s * a.channels]);
        static_cast<T*>(a.rows)[i] = T(sum);
    }
}

template <class T>
KERNEL outer_kernel(ProductArguments a) {
    using C = ComputeType<T>;
    GRID_STRIDE_LOOP(i, a.rays * a.samples * a.channels) {
        const Index sample = i / a.channels, r = sample / a.samples;
        const C value = static_cast<C>(static_cast<const T*>(a.rows)[r * a.channels + (i - sample * a.channels)]);
        static_cast<T*>(a.features)[i] = T(static_cast<const C*>(a.weights)[sample] * value);
    }
}

template <class T>
KERNEL dots_kernel(ProductArguments a) {
    using C = ComputeType<T>;
    __shared__ C parts[SAMPLES][LANES];
    const Index samples = a.rays * a.samples;
    // Every thread of a block runs every iteration, as the barriers require.
    for (Index first = static_cast<Index>(blockIdx.x) * SAMPLES; first < samples;
         first += static_cast<Index>(gridDim.x) * SAMPLES) {
        const Index i = first + threadIdx.y;
        C sum = 0;
        if (i < samples) {
            const T* features = static_cast<const T*>(a.features) + i * a.channels;
            const T* row = static_cast<const T*>(a.rows) + i / a.samples * a.channels;
            for (Index c = threadIdx.x; c < a.channels; c += LANES)
                sum += static_cast<C>(row[c]) * static_cast<C>(features[c]);
        }
        parts[threadIdx.y][threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.x == 0 && i < samples) {
            sum = 0;
            for (unsigned k = 0; k < LANES; k++) sum += parts[threadIdx.y][k];
            static_cast<C*>(a.weights)[i] = sum;
        }
        __syncthreads();
    }
}

dim3 blocks(Index count, unsigned size) { return dim3(static_cast<unsigned>(math::min(divide_up(count, size), MAX_GRID_X))); }

template <class C>
const char* run_rays(const RayArguments& a, void* stream) {
    const Index grid = divide_up(a.rays, THREADS);
    if (grid > MAX_GRID_X) return "composite: too many rays";
    if (a.grad_density != nullptr)
        LAUNCH((ray_kernel<C, true>), dim3(static_cast<unsigned>(grid)), dim3(THREADS), 0, stream, a);
    else
        LAUNCH((ray_kernel<C, false>), dim3(static_cast<unsigned>(grid)), dim3(THREADS), 0, stream, a);
    return launch_error();
}

template <class T>
const char* run_product(const ProductArguments& a, void* stream) {
    const Index rows = a.rays * a.channels;
    if (a.product == SUM)
        LAUNCH((sum_kernel<T>), blocks(rows, THREADS), dim3(THREADS), 0, stream, a);
    else if (a.product == OUTER)
        LAUNCH((outer_kernel<T>), blocks(rows * a.samples, THREADS), dim3(THREADS), 0, stream, a);
    else
        LAUNCH_WITH_BARRIERS((dots_kernel<T>), blocks(a.rays * a.samples, SAMPLES), dim3(LANES, SAMPLES), 0, stream, a);
    return launch_error();
}

}  // namespace

// Forward, or backward if there is a pointer for the density's gradient.
EXPORT const char* composite_rays_launch(const composite::RayArguments* a, void* stream) {
    if (a->rays == 0) return nullptr;
    return a->type == DOUBLE ? run_rays<double>(*a, stream) : run_rays<float>(*a, stream);
}

// No dimension may be empty.
EXPORT const char* composite_product_launch(const composite::ProductArguments* a, void* stream) {
    DISPATCH_ELEMENT_TYPE(a->type, T, return run_product<T>(*a, stream));
    return "composite: unknown element type";
}
