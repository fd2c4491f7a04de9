// Conversion of Python's description of a fused MLP to that of fused_mlp.h, and loops over its tiles.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "fused_mlp.h"

namespace dense {

using at::Tensor;

template <typename T> const T* data(const Tensor& packed) {
  if constexpr (sizeof(T) == 4)
    return packed.const_data_ptr<float>();
  else
    return reinterpret_cast<const T*>(packed.const_data_ptr<at::BFloat16>());
}

// The layers as Python passes them, each kind for all layers. Weights are packed, biases [*, outputs] or empty. Input
// means, [outputs] or empty, are subtracted from results before other layers take them; the last is that of the MLP's
// inputs.
struct Layers {
  at::TensorList weights, biases, input_means;
  at::IntArrayRef outputs, sources;
  at::ArrayRef<double> slopes, clamps;

  Layers(at::TensorList tensors, at::IntArrayRef integers, at::ArrayRef<double> numbers) {
    const size_t count = integers.size() / 2;
    TORCH_CHECK(count > 0 && integers.size() == 2 * count && numbers.size() == 2 * count &&
                    tensors.size() == 3 * count + 1,
                "fused_mlp: lists of different lengths");
    weights = tensors.slice(0, count), biases = tensors.slice(count, count), input_means = tensors.slice(2 * count);
    outputs = integers.slice(0, count), sources = integers.slice(count);
    slopes = numbers.slice(0, count), clamps = numbers.slice(count);
  }
};

// A matrix [*, width] with rows padded to whole vectors; an empty one stays empty.
class Padded {
 public:
  explicit Padded(const Tensor& x) {
    if (x.numel() == 0) return;
    const Tensor whole = x.contiguous();
    const int64_t width = x.size(-1), stride = round_up(width, kBlock), rows = x.numel() / width;
    values_.resize(rows * stride, 0.0f);
    for (int64_t r = 0; r < rows; r++) std::copy_n(whole.const_data_ptr<float>() + r * width, width, &values_[r * stride]);
  }
  const float* data() const { return values_.empty() ? nullptr : values_.data(); }

 private:
  std::vector<float> values_;
};

// A fused MLP that owns its biases and input means. The rows of biases are spread evenly over `rows`.
template <typename T> class BoundProgram {
 public:
  BoundProgram(const Layers& layers, int64_t inputs, int64_t rows)
      : input_mean_(layers.input_means.back()), program_(make(layers, inputs, rows)) {
    TORCH_CHECK(!input_mean() || layers.input_means.back().numel() == inputs,
                "fused_mlp: an input mean of the wrong size");
  }
  const Program<T>& operator*() const { return program_; }
  const Program<T>* operator->() const { return &program_; }
  const float* input_mean() const { return input_mean_.data(); }  // of the inputs

 private:
  std::vector<Layer<T>> make(const Layers& layers, int64_t inputs, int64_t rows) {
    std::vector<Layer<T>> made;
    for (size_t i = 0; i < layers.weights.size(); i++) {
      const int64_t source = layers.sources[i], outputs = layers.outputs[i];
      TORCH_CHECK(source >= -1 && source < int64_t(i), "fused_mlp: a layer's source comes before it");
      const int64_t from = source < 0 ? inputs : made[source].outputs;
      TORCH_CHECK(layers.weights[i].numel() == packed_size<T>(outputs, from), "fused_mlp: layer ", i,
                  " does not fit the results of its source");
      const Tensor &bias = layers.biases[i], &input_mean = layers.input_means[i];
      const int64_t shares = bias.numel() == 0 ? 1 : bias.size(0);
      TORCH_CHECK(bias.numel() == 0 || (bias.scalar_type() == at::kFloat && bias.dim() == 2 &&
                                        bias.size(1) == outputs && rows % shares == 0),
                  "fused_mlp: layer ", i, " has a bias of the wrong shape or type");
      TORCH_CHECK(input_mean.numel() == 0 || (input_mean.scalar_type() == at::kFloat && input_mean.numel() == outputs),
                  "fused_mlp: layer ", i, " has an input mean of the wrong shape or type");
      biases_.emplace_back(bias), input_means_.emplace_back(input_mean);
      made.push_back({data<T>(layers.weights[i]), from, outputs, biases_.back().data(),
                      std::max<int64_t>(rows / shares, 1), {float(layers.slopes[i]), float(layers.clamps[i])},
                      int(source), input_means_.back().data()});
    }
    return made;
  }

  std::vector<Padded> biases_, input_means_;
  Padded input_mean_;
  Program<T> program_;
};

// Tensors for the results of the layers that `keep` names.
struct Results {
  std::vector<Tensor> in_order;  // of `keep`
  std::vector<float*> places;    // by layer, null where not requested
  std::vector<int64_t> widths;   // by layer

  Results(const Tensor& like, int64_t rows, const Layers& layers, at::IntArrayRef keep)
      : places(layers.outputs.size(), nullptr), widths(layers.outputs.begin(), layers.outputs.end()) {
    std::vector<Tensor> kept(places.size());
    for (const int64_t i : keep) {
      TORCH_CHECK(i >= 0 && i < int64_t(kept.size()), "fused_mlp: no layer ", i);
      if (!kept[i].defined()) kept[i] = at::empty({rows, widths[i]}, like.options());
      places[i] = kept[i].mutable_data_ptr<float>();
      in_order.push_back(kept[i]);
    }
  }

  // Pointers to row `first` of the results.
  void from_row(int64_t first, std::vector<float*>& to) const {
    to.resize(places.size());
    for (size_t i = 0; i < places.size(); i++) to[i] = places[i] ? places[i] + first * widths[i] : nullptr;
  }
};

inline void check_input(const Tensor& x, int64_t dimensions) {
  TORCH_CHECK(x.dim() == dimensions && x.scalar_type() == at::kFloat && x.is_contiguous() && x.device().is_cpu(),
              "fused_mlp: inputs are contiguous float tensors of ", dimensions, " dimensions on the CPU");
}

// run(T()) for the type of the packed weights.
template <typename Run> void dispatch(const Tensor& packed, Run run) {
  if (packed.scalar_type() == at::kFloat) {
    run(float());
  } else {
    TORCH_CHECK(kHasBfloat16, "fused_mlp: this processor does not multiply bfloat16");
    if constexpr (kHasBfloat16) run(Bfloat16());
  }
}

// work(i) for i < count, each on one thread; make() returns a thread's `work`. A thread takes the next i when it is
// done with one, so that a core that other programs use does not hold up the rest.
template <typename Make> void in_parallel(int64_t count, const Make& make) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), count);
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      int64_t i = next++;
      if (i >= count) return;
      auto work = make();
      for (; i < count; i = next++) work(i);
    }
  });
}

}  // namespace dense
