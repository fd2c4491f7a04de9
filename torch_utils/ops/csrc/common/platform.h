// One source for three compilers: nvcc, a C++ compiler (the CPU operators), and a C++ compiler with EMULATE_CUDA, which
// runs the bodies of CUDA kernels on the CPU (see emulate_cuda.h).
//
// Rules for a kernel file (.cu):
//   * it is C++17 without torch headers, and uses nothing that compute capability 7.0 lacks;
//   * a kernel is `template <...> KERNEL name(...)`, launched by LAUNCH, or by LAUNCH_WITH_BARRIERS if it calls
//     __syncthreads();
//   * dynamic shared memory is DYNAMIC_SHARED(type, name), static shared memory plain `__shared__ type name[count];`
//   * the file exports `EXPORT const char* <op>_launch(...)`, which ends with `return launch_error();`
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define EXPORT extern "C" __attribute__((visibility("default")))

#if defined(__CUDACC__)

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define HOST_DEVICE __host__ __device__ __forceinline__
#define KERNEL __global__ void
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define LAUNCH_WITH_BARRIERS LAUNCH
#define DYNAMIC_SHARED(type, name)                                   \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(dynamic_shared)

// The error of the last launch, or null.
inline const char* launch_error() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#else

// A call that is not inlined would keep a loop from being vectorised.
#define HOST_DEVICE inline __attribute__((always_inline))
#if defined(EMULATE_CUDA)
#include "emulate_cuda.h"
#endif

#endif

using Index = int64_t;  // of elements; tensors may have more than 2^31

HOST_DEVICE Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

#if defined(__CUDACC__) || defined(EMULATE_CUDA)
constexpr Index MAX_GRID_X = 2147483647, MAX_GRID_YZ = 65535;

// Index of this thread along x over the whole grid, and the number of threads along x.
__device__ inline Index thread_x() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index threads_x() { return static_cast<Index>(gridDim.x) * blockDim.x; }
#define GRID_STRIDE_LOOP(i, count) for (Index i = thread_x(); i < (count); i += threads_x())
#endif

// Element types, numbered as the bindings pass them.
enum ElementType : int { FLOAT = 0, DOUBLE = 1, HALF = 2, BFLOAT16 = 3 };

template <class To, class From>
HOST_DEVICE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

// IEEE half precision to and from float. Free of branches, so that loops over it are vectorised.
HOST_DEVICE float half_bits_to_float(uint16_t half) {
    const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
    // Exponents differ by 112; adding it by a multiplication is also correct for subnormal numbers.
    const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 5.192296858534828e33f);  // 2^112
    const uint32_t bits = magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : finite;             // inf, nan
    return bit_cast<float>(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

HOST_DEVICE uint16_t float_to_half_bits(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
    // Round to nearest, ties to even, by adding just under half of what is dropped.
    const uint32_t normal = (magnitude + 0x0fffu + ((magnitude >> 13) & 1) - 0x38000000u) >> 13;
    // Below 2^-14 the spacing of halves is 2^-24, that of floats around 0.5: the addition rounds.
    const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and more round to infinity
    half = magnitude > 0x7f800000u ? 0x7e00u : half;   // not a number
    return static_cast<uint16_t>(half | (bits & 0x80000000u) >> 16);
}

HOST_DEVICE float bfloat16_bits_to_float(uint16_t value) { return bit_cast<float>(static_cast<uint32_t>(value) << 16); }

HOST_DEVICE uint16_t float_to_bfloat16_bits(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// Storage types of two bytes, laid out as torch's c10::Half and c10::BFloat16: read as float, written from float.
struct Half {
    uint16_t bits;
    Half() = default;
#if defined(__CUDA_ARCH__)
    HOST_DEVICE Half(float value) : bits(__half_as_ushort(__float2half_rn(value))) {}
    HOST_DEVICE operator float() const { return __half2float(__ushort_as_half(bits)); }
#else
    HOST_DEVICE Half(float value) : bits(float_to_half_bits(value)) {}
    HOST_DEVICE operator float() const { return half_bits_to_float(bits); }
#endif
};

struct BFloat16 {
    uint16_t bits;
    BFloat16() = default;
    HOST_DEVICE BFloat16(float value) : bits(float_to_bfloat16_bits(value)) {}
    HOST_DEVICE operator float() const { return bfloat16_bits_to_float(bits); }
};

// The type to compute in: double for double, float for everything else.
template <class T>
struct ComputeTypeOf {
    using type = float;
};
template <>
struct ComputeTypeOf<double> {
    using type = double;
};
template <class T>
using ComputeType = typename ComputeTypeOf<T>::type;

#include "vector_math.h"

// Elementary functions with the precision of their argument; for floats those of CUDA or of vector_math.h.
namespace math {
#if defined(__CUDA_ARCH__)
HOST_DEVICE float exp(float x) { return ::expf(x); }
HOST_DEVICE float expm1(float x) { return ::expm1f(x); }
HOST_DEVICE float log1p_unit(float x) { return ::log1pf(x); }
HOST_DEVICE float tanh(float x) { return ::tanhf(x); }
#else
using vector_math::exp;
using vector_math::expm1;
using vector_math::log1p_unit;
using vector_math::tanh;
#endif
HOST_DEVICE double exp(double x) { return ::exp(x); }
HOST_DEVICE double expm1(double x) { return ::expm1(x); }
HOST_DEVICE double log1p_unit(double x) { return ::log1p(x); }  // for x in [0, 1]
HOST_DEVICE double tanh(double x) { return ::tanh(x); }
HOST_DEVICE float abs(float x) { return ::fabsf(x); }
HOST_DEVICE double abs(double x) { return ::fabs(x); }
template <class T>
HOST_DEVICE T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
HOST_DEVICE T max(T a, T b) {
    return a < b ? b : a;
}
}  // namespace math

// Calls `function(std::integral_constant<int, number>())` if `number` is in [first, last].
template <int first, int last, class Function>
void with_constant(int number, const Function& function) {
    if constexpr (first <= last) {
        if (number == first) {
            function(std::integral_constant<int, first>());
        } else {
            with_constant<first + 1, last>(number, function);
        }
    }
}

// Runs statements with T standing for the element type of a number of ElementType.
#define DISPATCH_ELEMENT_TYPE(number, T, ...)                       \
    switch (number) {                                               \
        case FLOAT: { using T = float; __VA_ARGS__; break; }        \
        case DOUBLE: { using T = double; __VA_ARGS__; break; }      \
        case HALF: { using T = Half; __VA_ARGS__; break; }          \
        case BFLOAT16: { using T = BFloat16; __VA_ARGS__; break; }  \
    }
