// Dense layers on rows, y[r, n] = act(sum_k x[r, k] w[n, k] + bias[n]), and programs of several such layers.
//
// The product is one kernel that keeps a small block of y in registers, ROWS rows times COLUMNS vectors of outputs; it
// reads packed weights in order. Bias, activation and clamp are applied before the block is stored. A program runs its
// layers on a tile of rows that stays in the cache, and stores those results that are wanted.
//
// T is the type of the factors: float, or bfloat16 where the processor multiplies it; sums are float. Compilers turn the
// vector type into what the machine has; block sizes are chosen to fill its registers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#if defined(__AVX512BF16__)
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

// ---------------------------------------------------------------------------------------------------------------------
// Vectors

typedef float Vector __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector splat(float v) { return v - Vector{}; }

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

#if defined(__AVX512BF16__)
constexpr bool kHasBfloat16 = true;
inline void multiply_add(const Bfloat16* x, Vector w, Vector& sum) {  // two products at once
  int32_t pair;
  std::memcpy(&pair, x, 4);
  sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
}
inline void store(Bfloat16* p, Vector v) {
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &rounded, sizeof(rounded));
}
#else
constexpr bool kHasBfloat16 = false;
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Weights

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Inputs that a step of the kernel takes: bfloat16 is multiplied in pairs.
template <typename T> constexpr int kStep = sizeof(float) / sizeof(T);

template <typename T> int64_t packed_size(int64_t outputs, int64_t inputs) {
  return round_up(outputs, kBlock) * round_up(inputs, kStep<T>);
}

// w [outputs, inputs] of any strides to [block][step][output in the block][input in the step], filled up with zeros.
template <typename T>
void pack(const float* w, int64_t outputs, int64_t inputs, int64_t stride_out, int64_t stride_in, T* packed) {
  for (int64_t first = 0; first < outputs; first += kBlock)
    for (int64_t k = 0; k < inputs; k += kStep<T>)
      for (int64_t n = first; n < first + kBlock; n++)
        for (int64_t i = k; i < k + kStep<T>; i++)
          put(packed++, n < outputs && i < inputs ? w[n * stride_out + i * stride_in] : 0.0f);
}

// ---------------------------------------------------------------------------------------------------------------------
// The kernel

struct Activation {
  float slope = 1;  // of negative values
  float clamp = std::numeric_limits<float>::infinity();  // largest magnitude

  Vector operator()(Vector v) const {
    if (slope != 1) v = v > 0 ? v : v * slope;
    if (clamp < std::numeric_limits<float>::infinity()) {  // a comparison with nan is false: nan stays
      v = v > clamp ? splat(clamp) : v;
      v = v < -clamp ? splat(-clamp) : v;
    }
    return v;
  }
};

// Where a layer's results go: to the next layer, to a tensor, or to both.
template <typename T> struct Destination {
  T* next = nullptr;
  int64_t next_stride = 0;
  float* kept = nullptr;
  int64_t kept_stride = 0;

  // `count`: how many of a vector's values belong to the tensor.
  void write(Vector v, int64_t row, int64_t column, int64_t count) const {
    if (next) store(next + row * next_stride + column, v);
    if (!kept) return;
    float* to = kept + row * kept_stride + column;
    if (count >= kLanes)
      store(to, v);
    else
      for (int64_t i = 0; i < count; i++) to[i] = v[i];
  }
};

// R rows and C vectors of outputs. `bias` has the first output's place for each row, or is null; `residual` is added.
template <int R, int C, typename T>
void block(const T* x, int64_t x_stride, const T* w, int64_t inputs, const float* const* bias, const float* residual,
           int64_t residual_stride, const Activation& activation, const Destination<T>& to, int64_t row, int64_t column,
           int64_t outputs) {
  Vector sum[R][C];
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++) {
      sum[i][j] = bias ? load(bias[i] + j * kLanes) : Vector{};
      if (residual) sum[i][j] += load(residual + i * residual_stride + j * kLanes);
    }
  for (int64_t k = 0; k < inputs; k += kStep<T>, w += kBlock * kStep<T>) {
    Vector factor[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) factor[j] = load(reinterpret_cast<const float*>(w) + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
#pragma GCC unroll 8
      for (int j = 0; j < C; j++) multiply_add(x + i * x_stride + k, factor[j], sum[i][j]);
  }
  for (int i = 0; i < R; i++)
    for (int j = 0; j < C; j++)
      to.write(activation(sum[i][j]), row + i, column + j * kLanes, outputs - column - j * kLanes);
}

// ---------------------------------------------------------------------------------------------------------------------
// Layers and programs

template <typename T> struct Layer {
  const T* weight;  // packed
  int64_t inputs, outputs;
  const float* bias;     // [*, round_up(outputs, kBlock)] or null
  int64_t bias_rows;     // how many rows share a row of biases
  Activation activation;
  int source;  // the layer whose results are its inputs; -1: the program's inputs
  float* kept;  // [rows, outputs] or null

  int64_t bias_stride() const { return round_up(outputs, kBlock); }
};

// Rows [first, first + rows) of one layer. `x` and `to.next` begin with the tile, `residual` too; `to.kept` with row 0.
template <typename T>
void run_layer(const Layer<T>& layer, const T* x, int64_t x_stride, int64_t first, int64_t rows, const float* residual,
               int64_t residual_stride, const Destination<T>& to) {
  const int64_t panel = kBlock * round_up(layer.inputs, kStep<T>);
  for (int64_t n = 0; n < layer.outputs; n += kBlock) {
    const T* w = layer.weight + n / kBlock * panel;
    for (int64_t r = 0; r < rows;) {
      const float* bias[kRows];
      const int count = rows - r >= kRows ? kRows : rows - r >= kRows / 3 ? kRows / 3 : 1;
      for (int i = 0; layer.bias && i < count; i++)
        bias[i] = layer.bias + (first + r + i) / layer.bias_rows * layer.bias_stride() + n;
      const auto run = [&](auto kernel) {
        kernel(x + r * x_stride, x_stride, w, layer.inputs, layer.bias ? bias : nullptr,
               residual ? residual + r * residual_stride + n : nullptr, residual_stride, layer.activation, to, r, n,
               layer.outputs);
      };
      const bool whole = layer.outputs - n > kLanes;
      if (count == kRows)
        run(whole ? block<kRows, kColumns, T> : block<kRows, 1, T>);
      else if (count > 1)
        run(whole ? block<kRows / 3, kColumns, T> : block<kRows / 3, 1, T>);
      else
        run(whole ? block<1, kColumns, T> : block<1, 1, T>);
      r += count;
    }
  }
}

template <typename T> class Program {
 public:
  explicit Program(std::vector<Layer<T>> layers) : layers_(std::move(layers)), used_(layers_.size(), false) {
    for (const auto& layer : layers_) {
      if (layer.source >= 0) used_[layer.source] = true;
      widest_ = std::max({widest_, round_up(layer.outputs, kBlock), round_up(layer.inputs, kBlock)});
    }
  }

  // Rows at a time: a tile's inputs and outputs, of the widest layer, take about 128 kB.
  int64_t tile_rows() const { return std::max<int64_t>(16384 / widest_ / kRows, 2) * kRows; }

  // Memory for the results of layers that feed others; one per thread.
  class Buffers {
   public:
    Buffers(const Program& program, int64_t rows) {
      for (size_t i = 0; i < program.layers_.size(); i++) {
        const int64_t width = round_up(program.layers_[i].outputs, kBlock);
        memory_.emplace_back(program.used_[i] ? new T[rows * width] : nullptr);
      }
    }
    T* operator[](size_t i) { return memory_[i].get(); }

   private:
    std::vector<std::unique_ptr<T[]>> memory_;
  };

  // Rows [first, first + rows): x begins with the first of them; `residual`, added by layer 0, too.
  void run(const T* x, int64_t x_stride, int64_t first, int64_t rows, const float* residual, int64_t residual_stride,
           Buffers& buffers) const {
    for (size_t i = 0; i < layers_.size(); i++) {
      const Layer<T>& layer = layers_[i];
      const bool fed = layer.source >= 0;
      Destination<T> to{buffers[i], round_up(layer.outputs, kBlock),
                        layer.kept ? layer.kept + first * layer.outputs : nullptr, layer.outputs};
      run_layer(layer, fed ? buffers[layer.source] : x,
                fed ? round_up(layers_[layer.source].outputs, kBlock) : x_stride, first, rows,
                i == 0 ? residual : nullptr, residual_stride, to);
    }
  }

 private:
  std::vector<Layer<T>> layers_;
  std::vector<bool> used_;
  int64_t widest_ = kBlock;
};

// [rows, columns] to tile rows of T with a stride, filled up with zeros to a whole step.
template <typename T>
void convert(const float* x, int64_t x_stride, int64_t rows, int64_t columns, T* to, int64_t stride) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) put(to + r * stride + c, x[r * x_stride + c]);
    for (int64_t c = columns; c < round_up(columns, kStep<T>); c++) put(to + r * stride + c, 0.0f);
  }
}

}  // namespace dense
