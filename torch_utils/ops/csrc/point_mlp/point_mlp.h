// MLPs on points, and their gradients: all layers on a tile of rows that stays in the cache, then the next tile.
//
//   forward:   y_l = act(W_l x + b_l), x being the MLP's inputs or the results of an earlier layer
//   backward:  g_l = act'(y_l) * (sum of the gradients of y_l),   dx += W_l^T g_l,   dW_l = sum over rows of g_l x^T
//
// Rows are the N points of each of T frames of B videos. The frames of a video may share the inputs; then the first
// layer whose biases differ between frames, "the split", makes T rows of every row.
//
// Sums over rows are computed in chunks and in an order that depend on the shapes alone, not on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../fused_mlp/fused_mlp.h"

namespace point_mlp {

using dense::kBlock;
using dense::kLanes;
using dense::load;
using dense::load_some;
using dense::round_up;
using dense::splat;
using dense::store;
using dense::Vector;

constexpr int64_t kTileValues = 24576;  // approximate number of values of the widest layer in a tile
constexpr int64_t kChunkPoints = 768;   // least number of points of a chunk
constexpr int64_t kMostChunks = 8;      // per video

struct Layer {
  int64_t inputs, outputs;
  int source;  // the layer whose results are the inputs; -1 (only for the first layer): the MLP's inputs
  dense::Activation activation;

  const float* weight;      // packed; that of video b begins at b * weight_step
  const float* transposed;  // the same of W^T (backward)
  int64_t weight_step, transposed_step;

  const float* bias;  // [videos, frames, runs, stride], with size 1 along dimensions that share it; null for none
  int64_t bias_videos, bias_frames, bias_runs;  // a run: consecutive points that share a bias

  float* result;  // [B, F, N, outputs]; forward: null if not requested

  int64_t stride() const { return round_up(outputs, kBlock); }
};

struct Mlp {
  std::vector<Layer> layers;
  int64_t videos, frames, points;  // B, T, N
  bool shared;                     // the frames of a video share the inputs
  int split;                       // the number of layers if there is none
  const float* x;                  // [B, F, N, inputs]
  int64_t inputs;

  int size() const { return int(layers.size()); }

  // Frames of a layer's results and inputs: 1 where they are shared.
  int64_t frames_of(int layer) const { return shared && layer < split ? 1 : frames; }
  int64_t frames_into(int layer) const { return frames_of(layers[layer].source); }

  int64_t tile() const {
    int64_t widest = kBlock;
    for (const Layer& layer : layers) widest = std::max({widest, layer.stride(), layer.inputs});
    return std::max<int64_t>(kTileValues / (widest * (shared ? frames : 1)) / dense::kRows, 4) * dense::kRows;
  }

  // Chunks end between runs.
  int64_t chunks() const { return std::clamp<int64_t>(points / kChunkPoints, 1, std::min(kMostChunks, runs())); }
  int64_t chunk_begin(int64_t chunk) const { return runs() * chunk / chunks() * (points / runs()); }
  int64_t runs() const {
    int64_t most = 1;
    for (const Layer& layer : layers) most = std::max(most, layer.bias_runs);
    return most > 1 ? most : points;
  }

  const float* input_row(int layer, int64_t video, int64_t frame, int64_t point) const {
    const int source = layers[layer].source;
    if (source >= 0) return result_row(source, video, frame, point);
    const int64_t count = shared ? 1 : frames;
    return x + ((video * count + (count > 1 ? frame : 0)) * points + point) * inputs;
  }
  float* result_row(int layer, int64_t video, int64_t frame, int64_t point) const {
    return layers[layer].result + place(layer, video, frame, point) * layers[layer].outputs;
  }
  int64_t place(int layer, int64_t video, int64_t frame, int64_t point) const {
    const int64_t count = frames_of(layer);
    return (video * count + (count > 1 ? frame : 0)) * points + point;
  }
  const float* bias(int layer, int64_t video, int64_t frame) const {
    const Layer& own = layers[layer];
    if (!own.bias) return nullptr;
    const int64_t row = (own.bias_videos > 1 ? video : 0) * own.bias_frames + (own.bias_frames > 1 ? frame : 0);
    return own.bias + row * own.bias_runs * own.stride();
  }
};

// x [rows, inputs] times packed weights to `to`; `bias` is that of the first run, `first` the first row's index in its
// frame.
inline void multiply(const float* x, int64_t x_stride, int64_t rows, int64_t inputs, const float* weight,
                     int64_t outputs, const float* bias, int64_t bias_rows, int64_t first,
                     const dense::Activation& activation, const float* residual, int64_t residual_stride,
                     const dense::Destination<float>& to) {
  dense::Layer<float> layer{};
  layer.weight = weight, layer.inputs = inputs, layer.outputs = outputs, layer.activation = activation;
  layer.bias = bias, layer.bias_rows = bias_rows, layer.source = -1;
  dense::run_layer(layer, x, x_stride, first, rows, residual, residual_stride, to);
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

class Forward {
 public:
  explicit Forward(const Mlp& mlp) : mlp_(mlp), tile_(mlp.tile()) {
    if (mlp.split < mlp.size()) linear_.resize(tile_ * mlp.layers[mlp.split].stride());
    for (int i = 0; i < mlp.size(); i++) {
      const int64_t copies = mlp.shared ? mlp.frames_of(i) : 1;
      own_.emplace_back(mlp.layers[i].result ? 0 : copies * tile_ * mlp.layers[i].outputs);
    }
  }

  // Points [first, first + count) of a frame of a video; of all its frames where they share the inputs.
  void run(int64_t video, int64_t frame, int64_t first, int64_t count) {
    for (int i = 0; i < mlp_.size(); i++) {
      if (i == mlp_.split) {
        split(i, video, first, count);
      } else if (mlp_.shared && i > mlp_.split) {
        for (int64_t t = 0; t < mlp_.frames; t++) layer(i, video, t, first, count);
      } else {
        layer(i, video, frame, first, count);
      }
    }
  }

 private:
  // Location of a tile's results: in the tensor, or in this thread's memory.
  float* result(int i, int64_t video, int64_t frame, int64_t first) {
    if (mlp_.layers[i].result) return mlp_.result_row(i, video, frame, first);
    const int64_t copy = mlp_.shared && mlp_.frames_of(i) > 1 ? frame : 0;
    return &own_[i][copy * tile_ * mlp_.layers[i].outputs];
  }
  const float* input(int i, int64_t video, int64_t frame, int64_t first) {
    const int source = mlp_.layers[i].source;
    return source < 0 ? mlp_.input_row(i, video, frame, first) : result(source, video, frame, first);
  }

  void layer(int i, int64_t video, int64_t frame, int64_t first, int64_t count) {
    const Layer& own = mlp_.layers[i];
    dense::Destination<float> to;
    to.kept = result(i, video, frame, first), to.kept_stride = own.outputs;
    multiply(input(i, video, frame, first), own.inputs, count, own.inputs, own.weight + video * own.weight_step,
             own.outputs, mlp_.bias(i, video, frame), mlp_.points / own.bias_runs, first, own.activation, nullptr, 0,
             to);
  }

  // The product is the same for all frames, its bias is not.
  void split(int i, int64_t video, int64_t first, int64_t count) {
    const Layer& own = mlp_.layers[i];
    const int64_t stride = own.stride();
    dense::Destination<float> to;
    to.next = linear_.data(), to.next_stride = stride;
    multiply(input(i, video, 0, first), own.inputs, count, own.inputs, own.weight + video * own.weight_step,
             own.outputs, nullptr, 1, 0, {}, nullptr, 0, to);
    for (int64_t t = 0; t < mlp_.frames; t++) {
      const float* bias = mlp_.bias(i, video, t);
      float* row = result(i, video, t, first);
      for (int64_t r = 0; r < count; r++, row += own.outputs)
        for (int64_t c = 0; c < own.outputs; c += kLanes) {
          const Vector y = own.activation(load(&linear_[r * stride + c]) + load(bias + c));
          if (own.outputs - c >= kLanes)
            store(row + c, y);
          else
            dense::store_some(row + c, y, own.outputs - c);
        }
    }
  }

  const Mlp& mlp_;
  int64_t tile_;
  std::vector<float> linear_;
  std::vector<std::vector<float>> own_;
};

// ---------------------------------------------------------------------------------------------------------------------
// Backward

// sum[o, i] += sum over rows of g[r, o] x[r, i] for R outputs and C vectors of inputs; `last` inputs of the last vector.
template <int R, int C>
void outer(const float* g, int64_t g_stride, const float* x, int64_t x_stride, int64_t rows, int64_t last, float* sum,
           int64_t sum_stride) {
  Vector total[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) total[i][j] = load(sum + i * sum_stride + j * kLanes);
  const auto add = [&](auto whole) {
    for (int64_t r = 0; r < rows; r++, g += g_stride, x += x_stride) {
      Vector factor[C];
#pragma GCC unroll 8
      for (int j = 0; j < C; j++)
        factor[j] = decltype(whole)::value || j < C - 1 ? load(x + j * kLanes) : load_some(x + j * kLanes, last);
#pragma GCC unroll 16
      for (int i = 0; i < R; i++)
#pragma GCC unroll 8
        for (int j = 0; j < C; j++) total[i][j] += splat(g[i]) * factor[j];
    }
  };
  last == kLanes ? add(std::true_type()) : add(std::false_type());
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 8
    for (int j = 0; j < C; j++) store(sum + i * sum_stride + j * kLanes, total[i][j]);
}

// sum [outputs, sum_stride] += g^T x; sum_stride is `inputs`, rounded up to whole vectors.
inline void add_outer(const float* g, int64_t g_stride, int64_t outputs, const float* x, int64_t inputs, int64_t rows,
                      float* sum, int64_t sum_stride) {
  for (int64_t i = 0; i < inputs; i += kBlock) {
    const int64_t left = inputs - i;
    for (int64_t o = 0; o < outputs;) {
      const auto run = [&](auto two, auto one, int count) {
        if (left > kLanes)
          two(g + o, g_stride, x + i, inputs, rows, std::min<int64_t>(left - kLanes, kLanes), sum + o * sum_stride + i,
              sum_stride);
        else
          one(g + o, g_stride, x + i, inputs, rows, left, sum + o * sum_stride + i, sum_stride);
        o += count;
      };
      constexpr int kThird = dense::kRows / 3;
      if (outputs - o >= dense::kRows)
        run(outer<dense::kRows, 2>, outer<dense::kRows, 1>, dense::kRows);
      else if (outputs - o >= 2 * kThird)
        run(outer<2 * kThird, 2>, outer<2 * kThird, 1>, 2 * kThird);
      else if (outputs - o >= kThird)
        run(outer<kThird, 2>, outer<kThird, 1>, kThird);
      else
        run(outer<1, 2>, outer<1, 1>, 1);
    }
  }
}

// Gradients of one layer: those of its results on entry (null for none), sums per chunk on return.
struct LayerGradients {
  const float* result;  // [B, F, N, outputs]
  float* weight;        // [B, chunks, outputs, round_up(inputs, kLanes)]
  float* bias;          // [B, chunks, frames, stride], or [B, frames, runs, stride] with runs; null for none
};

class Backward {
 public:
  // `dx` [B, F, N, inputs] may be null.
  Backward(const Mlp& mlp, const std::vector<LayerGradients>& gradients, float* dx)
      : mlp_(mlp), gradients_(gradients), dx_(dx), tile_(mlp.tile()), filled_(mlp.size()) {
    for (int i = 0; i < mlp.size(); i++) buffers_.emplace_back(copies(i) * tile_ * mlp.layers[i].stride(), 0.0f);
  }

  // As in the forward pass; the points belong to one chunk.
  void run(int64_t video, int64_t chunk, int64_t frame, int64_t first, int64_t count) {
    std::fill(filled_.begin(), filled_.end(), 0);
    for (int i = mlp_.size() - 1; i >= 0; i--) {
      if (!filled_[i] && !gradients_[i].result) continue;
      for (int64_t t = 0; t < copies(i); t++)
        before_activation(i, video, chunk, copies(i) > 1 ? t : frame, first, count, buffer(i, t));
      if (i == mlp_.split) add_frames(i, count);
      const int64_t into = mlp_.shared ? mlp_.frames_into(i) : 1;
      for (int64_t t = 0; t < into; t++) {
        through_weight(i, video, chunk, into > 1 ? t : frame, first, count, buffer(i, t), t);
      }
      if (mlp_.layers[i].source >= 0) filled_[mlp_.layers[i].source] = 1;
    }
  }

 private:
  // Number of a layer's frames that are computed at a time.
  int64_t copies(int i) const { return mlp_.shared ? mlp_.frames_of(i) : 1; }
  float* buffer(int i, int64_t t) { return &buffers_[i][t * tile_ * mlp_.layers[i].stride()]; }

  // Adds the gradients of the results, multiplies by the activation's derivative, and sums the gradient of the bias.
  void before_activation(int i, int64_t video, int64_t chunk, int64_t frame, int64_t first, int64_t count, float* g) {
    const Layer& own = mlp_.layers[i];
    const int64_t stride = own.stride(), outputs = own.outputs, place = mlp_.place(i, video, frame, first);
    const float* given = gradients_[i].result ? gradients_[i].result + place * outputs : nullptr;
    const float* y = own.result + place * outputs;
    const bool linear = own.activation.slope == 1, clamps = own.activation.clamps(), added = filled_[i];
    const Vector slope = splat(own.activation.slope), limit = splat(own.activation.clamp);
    const int64_t run_length = own.bias_runs > 1 ? mlp_.points / own.bias_runs : mlp_.points;
    for (int64_t begin = 0; begin < count;) {
      const int64_t run = (first + begin) / run_length, end = std::min(count, (run + 1) * run_length - first);
      float* sum = nullptr;
      if (gradients_[i].bias) {
        const int64_t row = own.bias_runs > 1 ? (video * mlp_.frames_of(i) + frame_index(i, frame)) * own.bias_runs + run
                                              : (video * mlp_.chunks() + chunk) * mlp_.frames_of(i) + frame_index(i, frame);
        sum = gradients_[i].bias + row * stride;
      }
      for (int64_t c = 0; c < outputs; c += kLanes) {
        const int64_t some = outputs - c;
        const bool whole = some >= kLanes;
        Vector total = sum ? load(sum + c) : Vector{};
        for (int64_t r = begin; r < end; r++) {
          float* to = g + r * stride + c;
          Vector v = added ? load(to) : Vector{};
          if (given) v += whole ? load(given + r * outputs + c) : load_some(given + r * outputs + c, some);
          if (!linear || clamps) {
            const Vector result = whole ? load(y + r * outputs + c) : load_some(y + r * outputs + c, some);
            v = result > 0 ? v : v * slope;
            if (clamps) v = (result < limit) & (result > -limit) ? v : Vector{};
          }
          store(to, v);
          total += v;
        }
        if (sum) store(sum + c, total);
      }
      begin = end;
    }
  }

  int64_t frame_index(int i, int64_t frame) const { return mlp_.frames_of(i) > 1 ? frame : 0; }

  // The split's inputs are shared by the frames: their gradients add up.
  void add_frames(int i, int64_t count) {
    const int64_t size = count * mlp_.layers[i].stride();
    float* sum = buffer(i, 0);
    for (int64_t t = 1; t < mlp_.frames; t++) {
      const float* other = buffer(i, t);
      for (int64_t j = 0; j < size; j += kLanes) store(sum + j, load(sum + j) + load(other + j));
    }
  }

  void through_weight(int i, int64_t video, int64_t chunk, int64_t frame, int64_t first, int64_t count, const float* g,
                      int64_t t) {
    const Layer& own = mlp_.layers[i];
    const int64_t stride = own.stride(), width = round_up(own.inputs, kLanes);
    if (gradients_[i].weight)
      add_outer(g, stride, own.outputs, mlp_.input_row(i, video, frame, first), own.inputs, count,
                gradients_[i].weight + (video * mlp_.chunks() + chunk) * own.outputs * width, width);
    dense::Destination<float> to;
    const float* residual = nullptr;
    if (own.source >= 0) {
      to.next = buffer(own.source, t), to.next_stride = mlp_.layers[own.source].stride();
      if (filled_[own.source]) residual = to.next;
    } else if (dx_) {
      const int64_t frames = mlp_.shared ? 1 : mlp_.frames;
      to.kept = dx_ + ((video * frames + (frames > 1 ? frame : 0)) * mlp_.points + first) * own.inputs;
      to.kept_stride = own.inputs;
    } else {
      return;
    }
    multiply(g, stride, count, own.outputs, own.transposed + video * own.transposed_step, own.inputs, nullptr, 1, 0, {},
             residual, to.next_stride, to);
  }

  const Mlp& mlp_;
  const std::vector<LayerGradients>& gradients_;
  float* dx_;
  int64_t tile_;
  std::vector<char> filled_;
  std::vector<std::vector<float>> buffers_;
};

}  // namespace point_mlp
