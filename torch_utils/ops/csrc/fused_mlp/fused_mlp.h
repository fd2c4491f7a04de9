// Fused MLPs: layer after layer on a tile of rows that stays in the cache.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "tiles.h"

namespace dense {

template <typename T> struct Layer {
  const T* weight;  // packed
  int64_t inputs, outputs;
  const float* bias;     // [*, round_up(outputs, kBlock)] or null
  int64_t bias_rows;     // number of rows that share a row of biases
  Activation activation;
  int source;  // the layer whose results are its inputs; -1: the inputs of the MLP
  const float* input_mean;  // subtracted from the results that other layers take, [round_up(outputs, kBlock)]; or null

  int64_t bias_stride() const { return round_up(outputs, kBlock); }
};

// `run_layer` by products of tiles. Whole blocks are computed: zeros follow the outputs that other layers take.
template <typename FindBiases>
void run_tiles(const Layer<Bfloat16>& layer, const Bfloat16* x, int64_t x_stride, int64_t rows, const float* residual,
               int64_t residual_stride, const Destination<Bfloat16>& to, const FindBiases& find_biases) {
  const int64_t inputs = round_up(layer.inputs, kWhole<Bfloat16>);
  alignas(64) float sums[kTwoRegisters * kBlock];
  const float* bias[kTwoRegisters];
  for (int64_t n = 0; n < layer.outputs; n += kBlock) {
    for (int64_t r = 0; r < rows; r += kTwoRegisters) {
      const int count = std::min<int64_t>(rows - r, kTwoRegisters);
      const auto multiply = count > kRegisterRows ? multiply_tiles<kTwoRegisters> : multiply_tiles<kRegisterRows>;
      multiply(x + r * x_stride, x_stride, layer.weight + n * inputs, inputs, sums);
      if (layer.bias) find_biases(r, count, n, bias);
      const auto finish_rows = [&](auto size, int i) {
        constexpr int R = decltype(size)::value;
        Vector sum[R][kColumns];
#pragma GCC unroll 4
        for (int k = 0; k < R; k++)
#pragma GCC unroll 2
          for (int j = 0; j < kColumns; j++) {
            sum[k][j] = load(sums + (i + k) * kBlock + j * kLanes);
            if (layer.bias) sum[k][j] += load(bias[i + k] + j * kLanes);
          }
        const float* added = residual ? residual + (r + i) * residual_stride + n : nullptr;
        finish(sum, added, residual_stride, layer.activation, to, r + i, n, layer.outputs);
      };
      int i = 0;
      for (; i + 4 <= count; i += 4) finish_rows(std::integral_constant<int, 4>(), i);
      for (; i < count; i++) finish_rows(std::integral_constant<int, 1>(), i);
    }
  }
}

// Rows [first, first + rows) of one layer; `x`, `residual` and `to` begin with row `first`.
template <typename T>
void run_layer(const Layer<T>& layer, const T* x, int64_t x_stride, int64_t first, int64_t rows, const float* residual,
               int64_t residual_stride, const Destination<T>& to) {
  // Pointers to the biases of `count` rows from row `r` on.
  const auto find_biases = [&](int64_t r, int count, int64_t output, const float** to) {
    int64_t share = (first + r) / layer.bias_rows, rest = (first + r) % layer.bias_rows;
    for (int i = 0; i < count; i++) {
      to[i] = layer.bias + share * layer.bias_stride() + output;
      if (++rest == layer.bias_rows) rest = 0, share++;
    }
  };
  if (is_narrow<T>(layer.outputs, layer.inputs)) {
    const auto run = [&](auto kernel) {
      for (int64_t r = 0; r < rows; r++) {
        const float* bias = nullptr;
        if (layer.bias) find_biases(r, 1, 0, &bias);
        kernel(x + r * x_stride, layer.weight, layer.inputs, bias, residual ? residual + r * residual_stride : nullptr,
               layer.activation, to, r);
      }
    };
    static_assert(kNarrow == 4);
    switch (layer.outputs) {
      case 1: return run(narrow<1, T>);
      case 2: return run(narrow<2, T>);
      case 3: return run(narrow<3, T>);
      default: return run(narrow<4, T>);
    }
  }
  const int64_t panel = kBlock * round_up(layer.inputs, kWhole<T>);
  if constexpr (kHasBfloat16 && sizeof(T) == 2) {
    if (TileRegisters::allowed() && x_stride >= round_up(layer.inputs, kWhole<T>))  // the inputs are padded
      return run_tiles(layer, x, x_stride, rows, residual, residual_stride, to, find_biases);
  }
  for (int64_t n = 0; n < layer.outputs; n += kBlock) {
    const T* w = layer.weight + n / kBlock * panel;
    const bool whole = layer.outputs - n > kLanes || (to.next && kWhole<T> > kStep<T>);
    for (int64_t r = 0; r < rows;) {
      // Avoid a remainder of a third: with so few sums, its kernel would wait for each of them.
      constexpr int kThird = kRows / 3;
      const int64_t left = rows - r;
      const int count = left >= kRows && left != kRows + kThird ? kRows
                        : left >= 2 * kThird                    ? 2 * kThird
                        : left >= kThird                        ? kThird
                                                                : 1;
      const float* bias[kRows];
      if (layer.bias) find_biases(r, count, n, bias);
      const auto run = [&](auto kernel) {
        kernel(x + r * x_stride, x_stride, w, layer.inputs, layer.bias ? bias : nullptr,
               residual ? residual + r * residual_stride + n : nullptr, residual_stride, layer.activation, to, r, n,
               layer.outputs);
      };
      if (count == kRows)
        run(whole ? block<kRows, kColumns, T> : block<kRows, 1, T>);
      else if (count == 2 * kThird)
        run(whole ? block<2 * kThird, kColumns, T> : block<2 * kThird, 1, T>);
      else if (count == kThird)
        run(whole ? block<kThird, kColumns, T> : block<kThird, 1, T>);
      else
        run(whole ? block<1, kColumns, T> : block<1, 1, T>);
      r += count;
    }
  }
}

template <typename T> class Program {
 public:
  explicit Program(std::vector<Layer<T>> layers) : layers_(std::move(layers)), slot_(layers_.size(), -1) {
    std::vector<int> last_use(layers_.size(), -1), owner;
    for (size_t i = 0; i < layers_.size(); i++) {
      if (layers_[i].source >= 0) last_use[layers_[i].source] = i;
      widest_ = std::max({widest_, round_up(layers_[i].outputs, kBlock), round_up(layers_[i].inputs, kBlock)});
    }
    // Results that are no longer needed leave their slot to others.
    for (int i = 0; i < int(layers_.size()); i++) {
      if (last_use[i] < 0) continue;
      size_t slot = 0;
      while (slot < owner.size() && last_use[owner[slot]] >= i) slot++;
      if (slot == owner.size()) owner.push_back(i), widths_.push_back(0);
      owner[slot] = i;
      slot_[i] = slot;
      widths_[slot] = std::max(widths_[slot], round_up(layers_[i].outputs, kBlock));
    }
  }

  // Rows at a time: a tile's inputs and outputs, of the widest layer, take about 128 kB (float32).
  int64_t tile_rows() const {
    const int64_t group = kWhole<T> > kStep<T> ? kTwoRegisters : kRows;
    return std::max<int64_t>(16384 / widest_ / group, 4) * group;
  }

  const std::vector<Layer<T>>& layers() const { return layers_; }

  // Memory for the results of layers that feed others; one per thread.
  class Buffers {
   public:
    Buffers(const Program& program, int64_t rows) {
      for (const int64_t width : program.widths_) memory_.emplace_back(new T[round_up(rows, kRegisterRows) * width]());
    }
    T* operator[](int slot) { return slot < 0 ? nullptr : memory_[slot].get(); }

   private:
    std::vector<std::unique_ptr<T[]>> memory_;
  };

  // Rows [first, first + rows). `x` and `residual` (null, or added by layer 0) begin with row `first`, and so does
  // kept[i], which receives the results of layer i (null if they are not requested). Up to round_up(rows,
  // kRegisterRows) rows of bfloat16 `x` are read.
  void run(const T* x, int64_t x_stride, int64_t first, int64_t rows, const float* residual, int64_t residual_stride,
           float* const* kept, Buffers& buffers) const {
    [[maybe_unused]] const std::conditional_t<sizeof(T) == 2, TileRegisters, int> registers{};
    for (size_t i = 0; i < layers_.size(); i++) {
      const Layer<T>& layer = layers_[i];
      const bool fed = layer.source >= 0;
      const Destination<T> to{buffers[slot_[i]], layer.bias_stride(), layer.input_mean, kept[i], layer.outputs};
      run_layer(layer, fed ? buffers[slot_[layer.source]] : x, fed ? layers_[layer.source].bias_stride() : x_stride,
                first, rows, i == 0 ? residual : nullptr, residual_stride, to);
    }
  }

 private:
  std::vector<Layer<T>> layers_;
  std::vector<int> slot_;          // slot of the results of each layer, -1: none
  std::vector<int64_t> widths_;    // of the slots
  int64_t widest_ = kBlock;
};

}  // namespace dense
