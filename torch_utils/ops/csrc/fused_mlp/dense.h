// Dense layers on rows, y[r, n] = act(sum_k x[r, k] w[n, k] + bias[n]).
//
// The product is one kernel that keeps a small block of y in registers, kRows rows times kColumns vectors of outputs,
// and reads packed weights in order. Bias, activation and clamp are applied before the block is stored. Layers of very
// few outputs, which would leave most of a vector idle, are computed as sums of products along the inputs instead.
//
// T is the type of the factors: float, or bfloat16 where the processor multiplies it; sums are float. Compilers map the
// vector type to the machine's registers; block sizes are chosen to fill these. Processors that multiply tiles of
// bfloat16 compute the sums of a block by these (tiles.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace dense {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12, kColumns = 2;  // 24 of 32 registers hold sums
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6, kColumns = 2;  // 12 of 16
#else
constexpr int kLanes = 4, kRows = 6, kColumns = 2;
#endif
constexpr int kBlock = kLanes * kColumns;
constexpr int kNarrow = 4;  // up to this number, outputs are computed without blocks

// ---------------------------------------------------------------------------------------------------------------------
// Vectors

typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector splat(float v) { return v - Vector{}; }

#if defined(__AVX512F__)
// The larger and the smaller of two; v if it is NaN.
inline Vector larger(Vector limit, Vector v) { return (Vector)_mm512_max_ps((__m512)limit, (__m512)v); }
inline Vector smaller(Vector limit, Vector v) { return (Vector)_mm512_min_ps((__m512)limit, (__m512)v); }
inline Vector load_some(const float* p, int64_t count) {
  return (Vector)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
}
inline void store_some(float* p, Vector v, int64_t count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
}
#elif defined(__AVX__)
inline Vector larger(Vector limit, Vector v) { return (Vector)_mm256_max_ps((__m256)limit, (__m256)v); }
inline Vector smaller(Vector limit, Vector v) { return (Vector)_mm256_min_ps((__m256)limit, (__m256)v); }
// -1 in the first lanes, 0 in the others.
inline __m256i first_lanes(int64_t count) {
  static constexpr int32_t kOnesThenZeros[2 * kLanes] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnesThenZeros + kLanes - count));
}
inline Vector load_some(const float* p, int64_t count) { return (Vector)_mm256_maskload_ps(p, first_lanes(count)); }
inline void store_some(float* p, Vector v, int64_t count) { _mm256_maskstore_ps(p, first_lanes(count), (__m256)v); }
#else
inline Vector larger(Vector limit, Vector v) { return v < limit ? limit : v; }
inline Vector smaller(Vector limit, Vector v) { return v > limit ? limit : v; }
inline Vector load_some(const float* p, int64_t count) {
  Vector v{};
  for (int64_t i = 0; i < count; i++) v[i] = p[i];
  return v;
}
inline void store_some(float* p, Vector v, int64_t count) {
  for (int64_t i = 0; i < count; i++) p[i] = v[i];
}
#endif

inline float total(Vector v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#else
  float sum = 0;
  for (int i = 0; i < kLanes; i++) sum += v[i];
  return sum;
#endif
}

struct Bfloat16 {
  uint16_t bits;
};

inline void put(float* to, float v) { *to = v; }
inline void put(Bfloat16* to, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to nearest, ties to even
}

inline void multiply_add(const float* x, Vector w, Vector& sum) { sum += splat(*x) * w; }
inline void multiply_add(const float*, Vector x, Vector w, Vector& sum) { sum += x * w; }

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;
inline void multiply_add(const Bfloat16* x, Vector w, Vector& sum) {  // two products at once
  int32_t pair;
  std::memcpy(&pair, x, 4);
  sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
}
inline void multiply_add(const Bfloat16*, Vector x, Vector w, Vector& sum) {
  sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
}
inline void store(Bfloat16* p, Vector v) {
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &rounded, sizeof(rounded));
}
inline void store_some(Bfloat16* p, Vector v, int64_t count) {
  alignas(32) Bfloat16 all[kLanes];
  store(all, v);
  std::memcpy(p, all, count * sizeof(Bfloat16));
}
#else
constexpr bool kHasBfloat16 = false;
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Weights

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Inputs per step of the kernel: bfloat16 is multiplied in pairs.
template <typename T> constexpr int kStep = sizeof(float) / sizeof(T);

// Inputs are padded with zeros to a multiple of this number: a step, or a tile.
#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
template <typename T> constexpr int kWhole = sizeof(T) == 2 ? 32 : 1;
#else
template <typename T> constexpr int kWhole = kStep<T>;
#endif

template <typename T> bool is_narrow(int64_t outputs, int64_t inputs) {
  return outputs <= kNarrow && inputs > 0 && inputs % (kLanes * kStep<T>) == 0;
}

template <typename T> int64_t packed_size(int64_t outputs, int64_t inputs) {
  return is_narrow<T>(outputs, inputs) ? outputs * inputs : round_up(outputs, kBlock) * round_up(inputs, kWhole<T>);
}

// w [outputs, inputs] of any strides to [block][step][output in the block][input in the step], padded with zeros; the
// weights of narrow layers stay in their order.
template <typename T>
void pack(const float* w, int64_t outputs, int64_t inputs, int64_t stride_out, int64_t stride_in, T* packed) {
  if (is_narrow<T>(outputs, inputs)) {
    for (int64_t n = 0; n < outputs; n++)
      for (int64_t k = 0; k < inputs; k++) put(packed++, w[n * stride_out + k * stride_in]);
    return;
  }
  for (int64_t first = 0; first < outputs; first += kBlock)
    for (int64_t k = 0; k < round_up(inputs, kWhole<T>); k += kStep<T>)
      for (int64_t n = first; n < first + kBlock; n++)
        for (int64_t i = k; i < k + kStep<T>; i++)
          put(packed++, n < outputs && i < inputs ? w[n * stride_out + i * stride_in] : 0.0f);
}

// ---------------------------------------------------------------------------------------------------------------------
// The kernels

struct Activation {
  float slope = 1;  // of negative values, at most 1
  float clamp = std::numeric_limits<float>::infinity();  // largest magnitude

  bool clamps() const { return clamp < std::numeric_limits<float>::infinity(); }

  Vector operator()(Vector v) const {
    if (slope != 1) v = larger(v * slope, v);
    return clamps() ? larger(splat(-clamp), smaller(splat(clamp), v)) : v;
  }

  float operator()(float v) const {
    v = v > 0 ? v : v * slope;
    return v > clamp ? clamp : v < -clamp ? -clamp : v;  // comparisons with NaN are false: NaN stays
  }
};

// Where results go, from the first row on: to the next layer with its input mean subtracted (and zeros up to whole
// vectors), to memory, or to both.
template <typename T> struct Destination {
  T* next = nullptr;
  int64_t next_stride = 0;
  const float* input_mean = nullptr;
  float* kept = nullptr;
  int64_t kept_stride = 0;
};

// The sums of R rows and C vectors of outputs to their destination; `residual` is added.
template <int R, int C, typename T>
inline __attribute__((always_inline)) void finish(Vector (&sum)[R][C], const float* residual, int64_t residual_stride,
                                                  const Activation& activation, const Destination<T>& to, int64_t row,
                                                  int64_t column, int64_t outputs) {
  if (residual)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) {
      const int64_t count = outputs - column - j * kLanes;
      const float* added = residual + j * kLanes;
      if (count >= kLanes)
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) sum[i][j] += load(added + i * residual_stride);
      else if (count > 0)
        for (int i = 0; i < R; i++) sum[i][j] += load_some(added + i * residual_stride, count);
    }
  if (activation.slope != 1)
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) sum[i][j] = larger(sum[i][j] * activation.slope, sum[i][j]);
  if (activation.clamps())
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < C; j++)
        sum[i][j] = larger(splat(-activation.clamp), smaller(splat(activation.clamp), sum[i][j]));
  if (to.kept) {
    float* kept = to.kept + row * to.kept_stride + column;
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) {
      const int64_t count = outputs - column - j * kLanes;
      if (count >= kLanes)
#pragma GCC unroll 16
        for (int i = 0; i < R; i++) store(kept + i * to.kept_stride + j * kLanes, sum[i][j]);
      else if (count > 0)
        for (int i = 0; i < R; i++) store_some(kept + i * to.kept_stride + j * kLanes, sum[i][j], count);
    }
  }
  if (to.next) {
    T* next = to.next + row * to.next_stride + column;
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) {
      const Vector input_mean = to.input_mean ? load(to.input_mean + column + j * kLanes) : Vector{};
#pragma GCC unroll 16
      for (int i = 0; i < R; i++) store(next + i * to.next_stride + j * kLanes, sum[i][j] - input_mean);
    }
  }
}

// R rows and C vectors of outputs from output `column` on. `bias` points to the first output's bias for each row, or is
// null.
template <int R, int C, typename T>
void block(const T* x, int64_t x_stride, const T* w, int64_t inputs, const float* const* bias, const float* residual,
           int64_t residual_stride, const Activation& activation, const Destination<T>& to, int64_t row, int64_t column,
           int64_t outputs) {
  Vector sum[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) sum[i][j] = bias ? load(bias[i] + j * kLanes) : Vector{};
  for (int64_t k = 0; k < inputs; k += kStep<T>, w += kBlock * kStep<T>) {
    Vector factor[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) factor[j] = load(reinterpret_cast<const float*>(w) + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) multiply_add(x + i * x_stride + k, factor[j], sum[i][j]);
  }
  finish<R, C, T>(sum, residual, residual_stride, activation, to, row, column, outputs);
}

// A row of at most kNarrow outputs: sums along the inputs. `bias` and `residual` may be null.
template <int N, typename T>
void narrow(const T* x, const T* w, int64_t inputs, const float* bias, const float* residual,
            const Activation& activation, const Destination<T>& to, int64_t row) {
  constexpr int kInputs = kLanes * kStep<T>;
  Vector sum[N]{};
  for (int64_t k = 0; k < inputs; k += kInputs) {
    const Vector factor = load(reinterpret_cast<const float*>(x + k));
#pragma GCC unroll 4
    for (int n = 0; n < N; n++)
      multiply_add(x, factor, load(reinterpret_cast<const float*>(w + n * inputs + k)), sum[n]);
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; n++) {
    const float y = activation(total(sum[n]) + (bias ? bias[n] : 0.0f) + (residual ? residual[n] : 0.0f));
    if (to.kept) to.kept[row * to.kept_stride + n] = y;
    if (to.next) put(to.next + row * to.next_stride + n, y - (to.input_mean ? to.input_mean[n] : 0.0f));
  }
  if (to.next)
    for (int64_t n = N; n < round_up(N, kWhole<T>); n++) put(to.next + row * to.next_stride + n, 0.0f);
}

// [rows, columns] minus the input mean (whole vectors, or null) to rows of T with a stride, padded with zeros.
template <typename T>
void convert(const float* x, int64_t x_stride, int64_t rows, int64_t columns, const float* input_mean, T* to,
             int64_t stride) {
  for (int64_t r = 0; r < rows; r++) {
    const float* from = x + r * x_stride;
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t count = columns - c;
      const Vector middle = input_mean ? load(input_mean + c) : Vector{};
      if (count >= kLanes)
        store(to + r * stride + c, load(from + c) - middle);
      else
        store_some(to + r * stride + c, load_some(from + c, count) - middle, count);
    }
    for (int64_t c = columns; c < round_up(columns, kWhole<T>); c++) put(to + r * stride + c, 0.0f);
  }
}

}  // namespace dense
