// bias_act for CPU tensors: one parallel pass over memory, in loops that compilers vectorise.
//
// Where a channel is a long run in memory, its bias is one number. Otherwise biases are laid out as a pattern that
// repeats in memory, so that the innermost loop is long there too. The partition into tasks depends on the sizes alone,
// and the tasks' bias sums are added in the order of the tasks: results do not depend on the number of threads.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "bias_act_binding.h"

namespace {

using namespace bias_act;

constexpr Index LONG_RUN = 64;  // least number of consecutive elements of a channel that is treated as a run
constexpr Index PIECE = 256;    // elements of a run, or elements to be converted, that are computed at a time
constexpr Index PATTERN = 256;  // least length of a pattern
constexpr Index TASK = 16384;   // approximate number of elements of a task
constexpr Index AHEAD = 4096, CACHE_LINE = 64;  // bytes

// Elements with one bias each; adds the results to `sums` if they are requested.
template <class C>
using Loop = void (*)(const C* x, const C* b, const C* dy, const C* ddx, C* out, C* sums, Index count,
                      const Parameters<C>& parameters);

template <int act, int operation, class C>
void loop(const C* x, const C* b, const C* dy, const C* ddx, C* out, C* sums, Index count,
          const Parameters<C>& parameters) {
    const Parameters<C> p = parameters;
    const auto result = [&](Index j) __attribute__((always_inline)) {
        return element<act, operation>(x[j], b[j], operation == FORWARD ? C(0) : dy[j],
                                       operation == CURVATURE ? ddx[j] : C(0), p);
    };
    // Results and sums do not alias any operand.
    if (sums == nullptr) {
#pragma GCC ivdep
        for (Index j = 0; j < count; j++) out[j] = result(j);
    } else {
#pragma GCC ivdep
        for (Index j = 0; j < count; j++) {
            const C value = result(j);
            out[j] = value;
            sums[j] += value;
        }
    }
}

// `loop` for elements of type T, which are converted if C is another type.
template <class T, class C>
void convert_and_loop(Loop<C> loop, const T* x, const C* b, const T* dy, const T* ddx, T* out, C* sums, Index count,
                      const Parameters<C>& p) {
    if constexpr (std::is_same_v<T, C>) {
        loop(x, b, dy, ddx, out, sums, count, p);
    } else {
        C buffers[4][PIECE];
        const T* const sources[3] = {x, dy, ddx};
        for (int k = 0; k < 3; k++) {
            if (sources[k] == nullptr) continue;
            for (Index j = 0; j < count; j++) buffers[k][j] = sources[k][j];
        }
        loop(buffers[0], b, buffers[1], buffers[2], buffers[3], sums, count, p);
        for (Index j = 0; j < count; j++) out[j] = T(buffers[3][j]);
    }
}

// Prefetches three streams, more than the processor does by itself: gradients take half the time this way.
template <class T>
void fetch_ahead(const T* from, Index count) {
    if (from == nullptr) return;
    const uintptr_t first = reinterpret_cast<uintptr_t>(from) + AHEAD;  // may lie beyond the end, which is harmless
    for (Index byte = 0; byte < count * Index(sizeof(T)); byte += CACHE_LINE) {
        __builtin_prefetch(reinterpret_cast<const void*>(first + byte));
    }
}

template <class T>
T* advanced(T* pointer, Index by) {
    return pointer == nullptr ? nullptr : pointer + by;
}

// Partition of a tensor: rows of `row` elements each, tasks of `rows_per_task` rows. As runs, row r belongs to channel
// r / parts % channels; as patterns, all rows have the same biases, and the last may be shorter.
struct Cut {
    bool runs;
    Index row, parts, rows, rows_per_task, tasks, pattern, sums;

    explicit Cut(const Arguments& a) {
        runs = a.inner >= LONG_RUN;
        parts = runs ? divide_up(a.inner, TASK) : 1;
        const Index period = a.inner * a.channels;
        row = runs ? divide_up(a.inner, parts) : period * divide_up(PATTERN, period);
        rows = runs ? a.count / a.inner * parts : divide_up(a.count, row);
        // Limits the memory for a task's sums to one number for 32 elements.
        rows_per_task = std::max<Index>(divide_up(TASK, row), runs ? 1 : 32);
        tasks = divide_up(rows, rows_per_task);
        pattern = runs ? std::min(row, PIECE) : row;
        sums = runs ? rows : tasks * row;
    }
};

template <class T, class C>
void compute(const Arguments& a, const at::Tensor& bias_sum, Loop<C> loop) {
    const Parameters<C> p(a, T());
    const Cut cut(a);
    const auto bias_of = [&, b = static_cast<const T*>(a.b)](Index channel) {
        return b == nullptr ? C(0) : static_cast<C>(b[channel]) * p.inner_gain;
    };
    const bool summing = bias_sum.defined();
    std::vector<C> sums(summing ? cut.sums : 0);

    at::parallel_for(0, cut.tasks, 1, [&](Index first_task, Index last_task) {
        std::vector<C> biases(cut.pattern), run_sums(summing && cut.runs ? cut.pattern : 0);
        if (!cut.runs) {
            for (Index k = 0; k < cut.row; k++) biases[k] = bias_of(k / a.inner % a.channels);
        }
        for (Index r = first_task * cut.rows_per_task; r < std::min(last_task * cut.rows_per_task, cut.rows); r++) {
            Index start = r * cut.row, stop = std::min(start + cut.row, a.count);
            C* row_sums = summing ? sums.data() + r / cut.rows_per_task * cut.row : nullptr;
            if (cut.runs) {
                const Index run = r / cut.parts;
                start = run * a.inner + r % cut.parts * cut.row;
                stop = std::min(start + cut.row, (run + 1) * a.inner);
                std::fill(biases.begin(), biases.end(), bias_of(run % a.channels));
                std::fill(run_sums.begin(), run_sums.end(), C(0));
                row_sums = summing ? run_sums.data() : nullptr;
            }
            const Index piece = cut.runs || !std::is_same_v<T, C> ? PIECE : cut.row;
            for (Index i = start; i < stop; i += piece) {
                const Index offset = cut.runs ? 0 : i - start, count = std::min(piece, stop - i);
                const T* const x = static_cast<const T*>(a.x) + i;
                const T* const dy = advanced(static_cast<const T*>(a.dy), i);
                const T* const ddx = advanced(static_cast<const T*>(a.ddx), i);
                for (const T* stream : {x, dy, ddx}) fetch_ahead(stream, count);
                convert_and_loop<T, C>(loop, x, biases.data() + offset, dy, ddx, static_cast<T*>(a.out) + i,
                                       advanced(row_sums, offset), count, p);
            }
            if (summing && cut.runs) {
                C total = 0;
#pragma omp simd reduction(+ : total)
                for (Index k = 0; k < cut.pattern; k++) total += run_sums[k];
                sums[r] = total;
            }
        }
    });

    if (!summing) return;
    std::vector<double> totals(a.channels);
    if (cut.runs) {
        for (Index k = 0; k < cut.sums; k++) totals[k / cut.parts % a.channels] += sums[k];
    } else {
        std::vector<double> pattern(cut.row);
        for (Index task = 0; task < cut.tasks; task++) {
            for (Index k = 0; k < cut.row; k++) pattern[k] += sums[task * cut.row + k];
        }
        for (Index k = 0; k < cut.row; k++) totals[k / a.inner % a.channels] += pattern[k];
    }
    T* const result = static_cast<T*>(bias_sum.mutable_data_ptr());
    for (Index c = 0; c < a.channels; c++) result[c] = T(static_cast<C>(totals[c]));
}

template <class C>
Loop<C> choose_loop(int act, int operation) {
    Loop<C> chosen = nullptr;
    with_constants(act, operation, [&](auto a, auto o) { chosen = &loop<decltype(a)::value, decltype(o)::value, C>; });
    return chosen;
}

std::tuple<at::Tensor, at::Tensor> run(const at::Tensor& x, const OptionalTensor& b, const OptionalTensor& dy,
                                       const OptionalTensor& ddx, int64_t operation, int64_t dim, int64_t act,
                                       double alpha, double gain, std::optional<double> clamp, bool with_bias_sum) {
    TORCH_CHECK(x.is_cpu(), "bias_act: a CPU tensor is needed");
    const auto loops = [](const Arguments& a, const at::Tensor&, at::Tensor& bias_sum, int64_t) {
        if (a.count == 0) {
            if (bias_sum.defined()) bias_sum.zero_();
            return;
        }
        DISPATCH_ELEMENT_TYPE(a.type, T,
                              compute<T>(a, bias_sum, choose_loop<ComputeType<T>>(a.act, a.operation)));
    };
    return bias_act::apply(x, b, dy, ddx, operation, dim, act, alpha, gain, clamp, with_bias_sum, loops);
}

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) { m.def(BIAS_ACT_SCHEMA, &run); }

}  // namespace
