// The part of CUDA that the kernels here use, on the CPU: their own bodies, index arithmetic and launch geometry run
// without a GPU. Meant for tests: one thread of the machine runs all threads of all blocks one after another.
//
//   LAUNCH                 every thread runs from start to end;
//   LAUNCH_WITH_BARRIERS   the threads of a block are coroutines that change at __syncthreads().
//
// What real hardware would refuse or leave undefined becomes an error: a geometry over the limits, too much shared
// memory, a barrier that only some threads of a block reach. Dynamic shared memory starts as NaN in every block.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 gridDim, blockDim;
inline struct { unsigned x, y, z; } blockIdx, threadIdx;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static
#define KERNEL void

namespace emulated {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 48 * 1024, STACK = 64 * 1024;

// Which blocks of a launch to run (all by default), and whether the threads of a block take turns backwards: a kernel
// without races gives the same result.
struct Settings {
    int64_t first_block = 0, blocks = INT64_MAX;
    bool backwards = false;
};
inline Settings settings;
inline const char* error = nullptr;
alignas(16) inline unsigned char shared_memory[MAX_SHARED];

inline const char* geometry_error(const dim3& grid, const dim3& block, size_t shared_bytes) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return "empty grid";
    if (grid.x > 2147483647u || grid.y > 65535u || grid.z > 65535u) return "grid too large";
    if (block.x == 0 || block.y == 0 || block.z == 0) return "empty block";
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return "block too long along one axis";
    if (static_cast<uint64_t>(block.x) * block.y * block.z > MAX_THREADS) return "too many threads in a block";
    if (shared_bytes > MAX_SHARED) return "too much shared memory";
    return nullptr;
}

inline void enter_thread(unsigned thread) {
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / (blockDim.x * blockDim.y);
}

template <class Body>
struct Coroutines {
    static inline ucontext_t scheduler, threads[MAX_THREADS];
    static inline bool done[MAX_THREADS];
    static inline const Body* body;
    static inline unsigned current;

    static void entry() {
        (*body)();
        done[current] = true;  // and on to uc_link, the scheduler
    }

    // Give every thread a turn, up to its next barrier or its end, until all have ended.
    static void run_block(unsigned count, char* stacks) {
        for (unsigned i = 0; i < count; i++) {
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = stacks + i * STACK;
            threads[i].uc_stack.ss_size = STACK;
            threads[i].uc_link = &scheduler;
            makecontext(&threads[i], &entry, 0);
            done[i] = false;
        }
        for (unsigned ended = 0; ended < count;) {
            ended = 0;
            for (unsigned turn = 0; turn < count; turn++) {
                current = settings.backwards ? count - 1 - turn : turn;
                enter_thread(current);
                swapcontext(&scheduler, &threads[current]);
                ended += done[current];
            }
            if (ended > 0 && ended < count) {
                error = "some threads of a block ended without reaching __syncthreads()";
                return;
            }
        }
    }

    static void barrier() { swapcontext(&threads[current], &scheduler); }
};

inline void (*barrier)() = nullptr;

template <class Body>
void launch(const dim3& grid, const dim3& block, size_t shared_bytes, bool barriers, const Body& body) {
    if (error == nullptr) error = geometry_error(grid, block, shared_bytes);
    if (error != nullptr) return;
    gridDim = grid;
    blockDim = block;
    const unsigned count = block.x * block.y * block.z;
    const std::unique_ptr<char[]> stacks(barriers ? new char[count * STACK] : nullptr);
    Coroutines<Body>::body = &body;
    barrier = barriers ? &Coroutines<Body>::barrier : nullptr;
    const int64_t total = static_cast<int64_t>(grid.x) * grid.y * grid.z;
    const int64_t first = settings.first_block;
    const int64_t stop = settings.blocks < total - first ? first + settings.blocks : total;
    for (int64_t i = first; i < stop && error == nullptr; i++) {
        blockIdx.x = static_cast<unsigned>(i % grid.x);
        blockIdx.y = static_cast<unsigned>(i / grid.x % grid.y);
        blockIdx.z = static_cast<unsigned>(i / (static_cast<int64_t>(grid.x) * grid.y));
        memset(shared_memory, 0xff, shared_bytes);
        if (barriers) {
            Coroutines<Body>::run_block(count, stacks.get());
            continue;
        }
        for (unsigned thread = 0; thread < count; thread++) {
            enter_thread(settings.backwards ? count - 1 - thread : thread);
            body();
        }
    }
}

}  // namespace emulated

inline void __syncthreads() {
    if (emulated::barrier == nullptr) {
        emulated::error = "a kernel with __syncthreads() must be launched by LAUNCH_WITH_BARRIERS";
        return;
    }
    emulated::barrier();
}

template <class T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address = old + value;
    return old;
}

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)(stream), emulated::launch(grid, block, shared_bytes, false, [&] { kernel(__VA_ARGS__); }))
#define LAUNCH_WITH_BARRIERS(kernel, grid, block, shared_bytes, stream, ...) \
    ((void)(stream), emulated::launch(grid, block, shared_bytes, true, [&] { kernel(__VA_ARGS__); }))
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(emulated::shared_memory)

// The first error since the last call, or null.
inline const char* launch_error() {
    const char* error = emulated::error;
    emulated::error = nullptr;
    return error;
}

// Called by tests through ctypes.
EXPORT __attribute__((used)) inline void emulate_settings(int64_t first_block, int64_t blocks, int backwards) {
    emulated::settings = {first_block, blocks, backwards != 0};
}
