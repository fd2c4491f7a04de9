// PyTorch operators on dense.h: packing of weights, and programs of layers on rows of features, which are given or come
// out of a ×2 upsampling (upsample_rows.h). In parallel over tiles or rows of pixels.
#include "dense.h"
#include "upsample_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using dense::Bfloat16;
using dense::kBlock;
using dense::round_up;

// [outputs, inputs] float to a vector of float or of bfloat16.
Tensor pack_weight(const Tensor& weight, bool half) {
  TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.device().is_cpu(),
              "dense: a weight is a float matrix on the CPU");
  TORCH_CHECK(!half || dense::kHasBfloat16, "dense: this processor does not multiply bfloat16");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const float* w = weight.const_data_ptr<float>();
  const auto run = [&](auto* packed) { dense::pack(w, outputs, inputs, weight.stride(0), weight.stride(1), packed); };
  if (half) {
    Tensor packed = at::empty({dense::packed_size<Bfloat16>(outputs, inputs)}, weight.options().dtype(at::kBFloat16));
    run(reinterpret_cast<Bfloat16*>(packed.mutable_data_ptr<at::BFloat16>()));
    return packed;
  }
  Tensor packed = at::empty({dense::packed_size<float>(outputs, inputs)}, weight.options());
  run(packed.mutable_data_ptr<float>());
  return packed;
}

bool has_bfloat16() { return dense::kHasBfloat16; }

template <typename T> const T* data(const Tensor& packed) {
  if constexpr (sizeof(T) == 4)
    return packed.const_data_ptr<float>();
  else
    return reinterpret_cast<const T*>(packed.const_data_ptr<at::BFloat16>());
}

// What python says of a program's layers, one entry of each list per layer; biases are [*, outputs] or empty.
struct Layers {
  const at::TensorList weights, biases;
  const at::IntArrayRef outputs, sources;
  const at::ArrayRef<double> slopes, clamps;
};

// Biases are read in whole vectors.
std::vector<Tensor> padded_biases(const Layers& layers) {
  std::vector<Tensor> padded;
  for (size_t i = 0; i < layers.biases.size(); i++) {
    const Tensor& bias = layers.biases[i];
    const int64_t missing = round_up(layers.outputs[i], kBlock) - layers.outputs[i];
    padded.push_back(bias.numel() == 0 ? bias : at::constant_pad_nd(bias, {0, missing}).contiguous());
  }
  return padded;
}

template <typename T>
std::vector<dense::Layer<T>> make_layers(const Layers& layers, const std::vector<Tensor>& biases, int64_t inputs,
                                         int64_t rows, const std::vector<Tensor>& kept) {
  std::vector<dense::Layer<T>> made;
  for (size_t i = 0; i < layers.weights.size(); i++) {
    const int64_t source = layers.sources[i], outputs = layers.outputs[i];
    TORCH_CHECK(source >= -1 && source < int64_t(i), "dense: a layer's source comes before it");
    const int64_t from = source < 0 ? inputs : made[source].outputs;
    TORCH_CHECK(layers.weights[i].numel() == dense::packed_size<T>(outputs, from), "dense: layer ", i,
                " does not fit the results of its source");
    const Tensor& bias = biases[i];
    const int64_t shares = bias.numel() == 0 ? 1 : bias.size(0);
    TORCH_CHECK(bias.numel() == 0 || (bias.scalar_type() == at::kFloat && bias.dim() == 2 &&
                                      bias.size(1) == round_up(outputs, kBlock) && rows % shares == 0),
                "dense: layer ", i, " has a bias of the wrong shape or type");
    made.push_back({data<T>(layers.weights[i]), from, outputs,
                    bias.numel() == 0 ? nullptr : bias.const_data_ptr<float>(), std::max<int64_t>(rows / shares, 1),
                    {float(layers.slopes[i]), float(layers.clamps[i])}, int(source),
                    kept[i].defined() ? kept[i].mutable_data_ptr<float>() : nullptr});
  }
  return made;
}

template <typename T>
void run_rows(const Tensor& x, const Layers& layers, const std::vector<Tensor>& kept) {
  const int64_t rows = x.size(0), inputs = x.size(1);
  const std::vector<Tensor> biases = padded_biases(layers);
  const dense::Program<T> program(make_layers<T>(layers, biases, inputs, rows, kept));
  const int64_t tile = program.tile_rows();
  const float* from = x.const_data_ptr<float>();
  at::parallel_for(0, (rows + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
    typename dense::Program<T>::Buffers buffers(program, tile);
    const int64_t stride = round_up(inputs, dense::kStep<T>);
    std::unique_ptr<T[]> converted(sizeof(T) == 4 ? nullptr : new T[tile * stride]);
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i * tile, count = std::min(tile, rows - first);
      if constexpr (sizeof(T) == 4) {
        program.run(from + first * inputs, inputs, first, count, nullptr, 0, buffers);
      } else {
        dense::convert(from + first * inputs, inputs, count, inputs, converted.get(), stride);
        program.run(converted.get(), stride, first, count, nullptr, 0, buffers);
      }
    }
  });
}

// Tensors for the results of the layers that `keep` names, at their places, and in the order of `keep`.
std::vector<Tensor> make_results(const Tensor& like, int64_t rows, const Layers& layers, at::IntArrayRef keep,
                                 std::vector<Tensor>& results) {
  const size_t count = layers.weights.size();
  TORCH_CHECK(count > 0 && layers.biases.size() == count && layers.outputs.size() == count &&
                  layers.sources.size() == count && layers.slopes.size() == count && layers.clamps.size() == count,
              "dense: lists of different lengths");
  std::vector<Tensor> kept(count);
  for (const int64_t i : keep) {
    TORCH_CHECK(i >= 0 && i < int64_t(count), "dense: no layer ", i);
    if (!kept[i].defined()) kept[i] = at::empty({rows, layers.outputs[i]}, like.options());
    results.push_back(kept[i]);
  }
  return kept;
}

void check_input(const Tensor& x, int64_t dimensions) {
  TORCH_CHECK(x.dim() == dimensions && x.scalar_type() == at::kFloat && x.is_contiguous() && x.device().is_cpu(),
              "dense: inputs are contiguous float tensors of ", dimensions, " dimensions on the CPU");
}

// run(T()) for the type that the weights were packed as.
template <typename Run> void dispatch(const Tensor& packed, Run run) {
  if (packed.scalar_type() == at::kFloat) {
    run(float());
  } else {
    TORCH_CHECK(dense::kHasBfloat16, "dense: this processor does not multiply bfloat16");
    if constexpr (dense::kHasBfloat16) run(Bfloat16());
  }
}

// x [rows, inputs] to the results [rows, outputs] of the layers that `keep` names.
std::vector<Tensor> dense_rows(const Tensor& x, at::TensorList weights, at::TensorList biases, at::IntArrayRef outputs,
                               at::IntArrayRef sources, at::ArrayRef<double> slopes, at::ArrayRef<double> clamps,
                               at::IntArrayRef keep) {
  check_input(x, 2);
  const Layers layers{weights, biases, outputs, sources, slopes, clamps};
  std::vector<Tensor> results;
  const std::vector<Tensor> kept = make_results(x, x.size(0), layers, keep, results);
  dispatch(weights[0], [&](auto type) { run_rows<decltype(type)>(x, layers, kept); });
  return results;
}

// The layers on the pixels of an image of 2 * height rows. make_rows() gives an object for one thread; its
// next(y, inputs, residual) makes the layers' inputs for row y, and what the first layer adds to its product.
template <typename T, typename MakeRows>
void run_pixels(int64_t height, int64_t width, int64_t inputs, int64_t residual_size, const Layers& layers,
                const std::vector<Tensor>& kept, const MakeRows& make_rows) {
  TORCH_CHECK(inputs % dense::kStep<T> == 0, "dense: bfloat16 needs an even number of inputs, not ", inputs);
  const std::vector<Tensor> biases = padded_biases(layers);
  const int64_t pixels = 2 * width;
  const dense::Program<T> program(make_layers<T>(layers, biases, inputs, 2 * height * pixels, kept));
  at::parallel_for(0, 2 * height, 1, [&](int64_t begin, int64_t end) {
    const int64_t tile = std::min(program.tile_rows(), pixels);
    typename dense::Program<T>::Buffers buffers(program, tile);
    std::vector<T> row(pixels * inputs);
    std::vector<float> residual(pixels * residual_size + kBlock);  // it is read in whole vectors
    auto rows = make_rows();
    for (int64_t y = begin; y < end; y++) {
      rows.next(y, row.data(), residual.data());
      for (int64_t i = 0; i < pixels; i += tile)
        program.run(row.data() + i * inputs, inputs, y * pixels + i, std::min(tile, pixels - i),
                    residual_size ? residual.data() + i * residual_size : nullptr, residual_size, buffers);
    }
  });
}

struct CornerRows {
  upsample::BlurredRows<upsample::CornerMeans> hidden;
  upsample::BlurredNearest nearest;

  template <typename T> void next(int64_t y, T* inputs, float* residual) {
    hidden.row(y, inputs, [](int64_t, float v) { return v; });
    nearest.row(y, residual);
  }
};

struct PixelRows {
  upsample::BlurredRows<upsample::ShuffledRows> shuffled;
  const float* bias;
  int64_t channels;
  float slope, clamp;

  template <typename T> void next(int64_t y, T* inputs, float*) {
    shuffled.row(y, inputs, [this](int64_t i, float v) {
      v += bias[i % channels];
      v = v > 0 ? v : v * slope;
      return v > clamp ? clamp : v < -clamp ? -clamp : v;
    });
  }
};

// 'nn_cat': x [height, width, C] and hidden [height, width, 2 * bottleneck] to results [4 * height * width, outputs].
// The first layer takes blur(lrelu(corner means of hidden)) and adds blur(nearest(x)).
std::vector<Tensor> upsample_corners(const Tensor& x, const Tensor& hidden, double slope, at::TensorList weights,
                                     at::TensorList biases, at::IntArrayRef outputs, at::IntArrayRef sources,
                                     at::ArrayRef<double> slopes, at::ArrayRef<double> clamps, at::IntArrayRef keep) {
  check_input(x, 3), check_input(hidden, 3);
  const int64_t height = x.size(0), width = x.size(1), channels = x.size(2), bottleneck = hidden.size(2) / 2;
  const Layers layers{weights, biases, outputs, sources, slopes, clamps};
  std::vector<Tensor> results;
  const std::vector<Tensor> kept = make_results(x, 4 * height * width, layers, keep, results);
  TORCH_CHECK(hidden.size(0) == height && hidden.size(1) == width && hidden.size(2) % 2 == 0 &&
                  outputs[0] == channels,
              "dense: x and hidden do not fit each other or the first layer");
  const float *image = x.const_data_ptr<float>(), *states = hidden.const_data_ptr<float>();
  dispatch(weights[0], [&](auto type) {
    run_pixels<decltype(type)>(height, width, bottleneck, channels, layers, kept, [&] {
      return CornerRows{{2 * height, 2 * width, bottleneck, {states, height, width, bottleneck, float(slope)}},
                        {image, height, width, channels}};
    });
  });
  return results;
}

// 'pixelshuffle': x [height, width, C] and corrections [height, width, 2, 2, C] to results as above. The first layer
// takes act(blur(shuffled(x + corrections)) + bias).
std::vector<Tensor> upsample_shuffled(const Tensor& x, const Tensor& corrections, const Tensor& bias, double slope,
                                      double clamp, at::TensorList weights, at::TensorList biases,
                                      at::IntArrayRef outputs, at::IntArrayRef sources, at::ArrayRef<double> slopes,
                                      at::ArrayRef<double> clamps, at::IntArrayRef keep) {
  check_input(x, 3), check_input(corrections, 5), check_input(bias, 1);
  const int64_t height = x.size(0), width = x.size(1), channels = x.size(2);
  const Layers layers{weights, biases, outputs, sources, slopes, clamps};
  std::vector<Tensor> results;
  const std::vector<Tensor> kept = make_results(x, 4 * height * width, layers, keep, results);
  TORCH_CHECK(corrections.sizes() == at::IntArrayRef({height, width, 2, 2, channels}) && bias.size(0) == channels,
              "dense: x, corrections and bias do not fit each other");
  const float *image = x.const_data_ptr<float>(), *four = corrections.const_data_ptr<float>();
  const float* added = bias.const_data_ptr<float>();
  dispatch(weights[0], [&](auto type) {
    run_pixels<decltype(type)>(height, width, channels, 0, layers, kept, [&] {
      return PixelRows{{2 * height, 2 * width, channels, {image, four, width, channels}}, added, channels,
                       float(slope), float(clamp)};
    });
  });
  return results;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
  const std::string program =
      "Tensor[] weights, Tensor[] biases, int[] outputs, int[] sources, float[] slopes, float[] clamps, int[] keep) "
      "-> Tensor[]";
  m.def("has_bfloat16() -> bool", has_bfloat16);
  m.def("pack_weight(Tensor weight, bool half) -> Tensor");
  m.def(("dense_rows(Tensor x, " + program).c_str());
  m.def(("upsample_corners(Tensor x, Tensor hidden, float slope, " + program).c_str());
  m.def(("upsample_shuffled(Tensor x, Tensor corrections, Tensor bias, float slope, float clamp, " + program).c_str());
  m.impl("pack_weight", c10::DispatchKey::CPU, TORCH_FN(pack_weight));
  m.impl("dense_rows", c10::DispatchKey::CPU, TORCH_FN(dense_rows));
  m.impl("upsample_corners", c10::DispatchKey::CPU, TORCH_FN(upsample_corners));
  m.impl("upsample_shuffled", c10::DispatchKey::CPU, TORCH_FN(upsample_shuffled));
}
