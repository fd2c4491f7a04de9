// PyTorch operators of fused_mlp.h: packing of weights, and fused MLPs on rows of features that are given, result from
// a ×2 upsampling (upsample_rows.h) or are sampled along rays (march_rays.h).
#include <torch/library.h>

#include "fused_mlp_binding.h"
#include "march_rays.h"
#include "upsample_rows.h"

namespace {

using at::Tensor;
using dense::Bfloat16;
using dense::Layers;
using dense::Results;
using dense::check_input;
using dense::dispatch;
using dense::kBlock;

constexpr int64_t kTilePixels = 64;  // pixels that go through the layers together

// [outputs, inputs] float to a vector of float or of bfloat16.
Tensor pack_weight(const Tensor& weight, bool half) {
  TORCH_CHECK(weight.dim() == 2 && weight.scalar_type() == at::kFloat && weight.device().is_cpu(),
              "fused_mlp: a weight is a float matrix on the CPU");
  TORCH_CHECK(!half || dense::kHasBfloat16, "fused_mlp: this processor does not multiply bfloat16");
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

template <typename T> void run_rows(const Tensor& x, const Layers& layers, const Results& results) {
  const int64_t rows = x.size(0), inputs = x.size(1);
  const dense::BoundProgram<T> program(layers, inputs, rows);
  const int64_t tile = program->tile_rows(), stride = dense::round_up(inputs, dense::kWhole<T>);
  const bool converts = sizeof(T) < 4 || program.input_mean();
  const float* from = x.const_data_ptr<float>();
  dense::in_parallel((rows + tile - 1) / tile, [&] {
    return [&, buffers = typename dense::Program<T>::Buffers(*program, tile), kept = std::vector<float*>(),
            converted = std::vector<T>(converts ? dense::round_up(tile, dense::kRegisterRows) * stride : 0)](int64_t i) mutable {
      const int64_t first = i * tile, count = std::min(tile, rows - first);
      const float* begin = from + first * inputs;
      results.from_row(first, kept);
      if (converts) {
        dense::convert(begin, inputs, count, inputs, program.input_mean(), converted.data(), stride);
        program->run(converted.data(), stride, first, count, nullptr, 0, kept.data(), buffers);
      } else if constexpr (sizeof(T) == 4) {
        program->run(begin, inputs, first, count, nullptr, 0, kept.data(), buffers);
      }
    };
  });
}

// x [rows, inputs] to the results [rows, outputs] of the layers that `keep` names.
std::vector<Tensor> dense_rows(const Tensor& x, at::TensorList tensors, at::IntArrayRef integers,
                               at::ArrayRef<double> numbers, at::IntArrayRef keep) {
  check_input(x, 2);
  const Layers layers(tensors, integers, numbers);
  const Results results(x, x.size(0), layers, keep);
  dispatch(layers.weights[0], [&](auto type) { run_rows<decltype(type)>(x, layers, results); });
  return results.in_order;
}

// The layers on the pixels of an image of 2 * height rows. make_rows() returns an object for one thread, whose
// next(y, input_mean, inputs, residual) computes the layers' inputs for row y and the first layer's residual.
template <typename T, typename MakeRows>
void run_pixels(int64_t height, int64_t width, int64_t inputs, int64_t residual_size, const Layers& layers,
                const Results& results, const MakeRows& make_rows) {
  TORCH_CHECK(inputs % dense::kStep<T> == 0, "fused_mlp: bfloat16 needs an even number of inputs, not ", inputs);
  const int64_t pixels = 2 * width, tile = std::min<int64_t>(pixels, kTilePixels);
  const dense::BoundProgram<T> program(layers, inputs, 2 * height * pixels);
  const std::vector<float> zeros(dense::round_up(inputs, kBlock), 0.0f);
  const float* input_mean = program.input_mean() ? program.input_mean() : zeros.data();
  // Rows share work with the rows before them: a thread takes several, but few enough that none has to wait at the end.
  const int64_t rows_each = std::max<int64_t>(2 * height / (4 * at::get_num_threads()), 4);
  dense::in_parallel((2 * height + rows_each - 1) / rows_each, [&] {
    return [&, buffers = typename dense::Program<T>::Buffers(*program, tile), kept = std::vector<float*>(),
            row = std::vector<T>(dense::round_up(pixels, dense::kRegisterRows) * inputs), rows = make_rows(),
            residual = std::vector<float>(pixels * residual_size)](int64_t part) mutable {
      for (int64_t y = part * rows_each; y < std::min((part + 1) * rows_each, 2 * height); y++) {
        rows.next(y, input_mean, row.data(), residual.data());
        for (int64_t i = 0; i < pixels; i += tile) {
          results.from_row(y * pixels + i, kept);
          program->run(row.data() + i * inputs, inputs, y * pixels + i, std::min(tile, pixels - i),
                       residual_size ? residual.data() + i * residual_size : nullptr, residual_size, kept.data(),
                       buffers);
        }
      }
    };
  });
}

struct CornerRows {
  upsample::BlurredRows<upsample::CornerMeans> hidden;
  upsample::BlurredNearest nearest;

  template <typename T> void next(int64_t y, const float* input_mean, T* inputs, float* residual) {
    hidden.row(y, inputs, [input_mean](int64_t c, dense::Vector v) { return v - dense::load(input_mean + c); });
    nearest.row(y, residual);
  }
};

struct PixelRows {
  upsample::BlurredRows<upsample::ShuffledRows> shuffled;
  const float* bias;  // whole vectors
  dense::Activation activation;

  template <typename T> void next(int64_t y, const float* input_mean, T* inputs, float*) {
    shuffled.row(y, inputs, [this, input_mean](int64_t c, dense::Vector v) {
      return activation(v + dense::load(bias + c)) - dense::load(input_mean + c);
    });
  }
};

// 'nn_cat': x [height, width, C] and hidden [height, width, 2 * bottleneck] to results [4 * height * width, outputs].
// The first layer takes blur(lrelu(corner means of hidden)) and adds blur(nearest(x)).
std::vector<Tensor> upsample_corners(const Tensor& x, const Tensor& hidden, double slope, at::TensorList tensors,
                                     at::IntArrayRef integers, at::ArrayRef<double> numbers, at::IntArrayRef keep) {
  check_input(x, 3), check_input(hidden, 3);
  const int64_t height = x.size(0), width = x.size(1), channels = x.size(2), bottleneck = hidden.size(2) / 2;
  const Layers layers(tensors, integers, numbers);
  const Results results(x, 4 * height * width, layers, keep);
  TORCH_CHECK(hidden.size(0) == height && hidden.size(1) == width && hidden.size(2) % 2 == 0 &&
                  layers.outputs[0] == channels,
              "fused_mlp: x and hidden do not fit each other or the first layer");
  const float *image = x.const_data_ptr<float>(), *states = hidden.const_data_ptr<float>();
  dispatch(layers.weights[0], [&](auto type) {
    run_pixels<decltype(type)>(height, width, bottleneck, channels, layers, results, [&] {
      return CornerRows{{2 * height, 2 * width, bottleneck, {states, height, width, bottleneck, float(slope)}},
                        {image, height, width, channels}};
    });
  });
  return results.in_order;
}

// 'pixelshuffle': x [height, width, C] and corrections [height, width, 2, 2, C] to results as above. The first layer
// takes act(blur(shuffled(x + corrections)) + bias).
std::vector<Tensor> upsample_shuffled(const Tensor& x, const Tensor& corrections, const Tensor& bias, double slope,
                                      double clamp, at::TensorList tensors, at::IntArrayRef integers,
                                      at::ArrayRef<double> numbers, at::IntArrayRef keep) {
  check_input(x, 3), check_input(corrections, 5), check_input(bias, 1);
  const int64_t height = x.size(0), width = x.size(1), channels = x.size(2);
  const Layers layers(tensors, integers, numbers);
  const Results results(x, 4 * height * width, layers, keep);
  TORCH_CHECK(corrections.sizes() == at::IntArrayRef({height, width, 2, 2, channels}) && bias.size(0) == channels,
              "fused_mlp: x, corrections and bias do not fit each other");
  const float *image = x.const_data_ptr<float>(), *four = corrections.const_data_ptr<float>();
  const dense::Padded added(bias);
  dispatch(layers.weights[0], [&](auto type) {
    run_pixels<decltype(type)>(height, width, channels, 0, layers, results, [&] {
      return PixelRows{{2 * height, 2 * width, channels, {image, four, width, channels}}, added.data(),
                       {float(slope), float(clamp)}};
    });
  });
  return results.in_order;
}

// Rays [R, 3] from one origin [3] to: the weighted sum along the rays [R, outputs] of each layer that `keep` names;
// then the sum of the weights, the depth and the transmittance, [R] each. `waves`: vectors and phases [K, 4] of the
// positional encoding. `prior`: peak, radius and centre (x, y, z) of a density prior, or empty. See march_rays.h.
std::vector<Tensor> march_rays(const Tensor& origin, const Tensor& directions, const Tensor& even,
                               const Tensor& quantiles, const Tensor& waves, double near, double far,
                               bool last_opaque, int64_t density, at::ArrayRef<double> prior, at::TensorList tensors,
                               at::IntArrayRef integers, at::ArrayRef<double> numbers, at::IntArrayRef keep) {
  check_input(origin, 1), check_input(directions, 2);
  check_input(even, 1), check_input(quantiles, 1), check_input(waves, 2);
  const Layers layers(tensors, integers, numbers);
  const int64_t rays = directions.size(0), samples = even.size(0);
  TORCH_CHECK(origin.size(0) == 3 && directions.size(1) == 3 && waves.size(1) == 4,
              "fused_mlp: rays have three coordinates, waves a phase as well");
  TORCH_CHECK(samples >= 3, "fused_mlp: at least three samples");
  TORCH_CHECK(density >= 0 && density < int64_t(layers.outputs.size()) && layers.outputs[density] == 1,
              "fused_mlp: the density is a layer of one output");
  TORCH_CHECK(prior.empty() || (prior.size() == 5 && prior[1] > 0),
              "fused_mlp: a density prior is a peak, a positive radius and three coordinates");
  const Results sums(directions, rays, layers, keep);
  std::vector<Tensor> results = sums.in_order;
  for (int i = 0; i < 3; i++) results.push_back(at::empty({rays}, directions.options()));
  const size_t more = results.size() - 3;
  const march::Rays described{origin.const_data_ptr<float>(), directions.const_data_ptr<float>(), rays,
                              even.const_data_ptr<float>(), samples, quantiles.const_data_ptr<float>(),
                              quantiles.size(0), float(near), float(far), last_opaque};
  float *weight = results[more].mutable_data_ptr<float>(), *depth = results[more + 1].mutable_data_ptr<float>(),
        *transmittance = results[more + 2].mutable_data_ptr<float>();
  const march::DensityPrior blob =
      prior.empty() ? march::DensityPrior{}
                    : march::DensityPrior{float(prior[0]), float(0.5 / (prior[1] * prior[1])),
                                          {float(prior[2]), float(prior[3]), float(prior[4])}};
  const march::Sinusoids encoding(waves.const_data_ptr<float>(), waves.size(0));
  dispatch(layers.weights[0], [&](auto type) {
    using T = decltype(type);
    const dense::BoundProgram<T> coarse(layers, encoding.outputs(), rays * samples);
    const dense::BoundProgram<T> fine(layers, encoding.outputs(), rays * std::max<int64_t>(quantiles.size(0), 1));
    const int64_t each = march::rays_at_once(std::max(samples, quantiles.size(0)));
    dense::in_parallel((rays + each - 1) / each, [&] {
      return [&, tile = march::Tile<T>(described, encoding, blob, *coarse, *fine, coarse.input_mean(), density,
                                       sums.places, each)](int64_t i) mutable {
        tile.run(i * each, std::min(each, rays - i * each), sums.places, weight, depth, transmittance);
      };
    });
  });
  return results;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
  const std::string program = "Tensor[] tensors, int[] integers, float[] numbers, int[] keep) -> Tensor[]";
  m.def("has_bfloat16() -> bool", has_bfloat16);
  m.def("pack_weight(Tensor weight, bool half) -> Tensor");
  m.def(("dense_rows(Tensor x, " + program).c_str());
  m.def(("upsample_corners(Tensor x, Tensor hidden, float slope, " + program).c_str());
  m.def(("upsample_shuffled(Tensor x, Tensor corrections, Tensor bias, float slope, float clamp, " + program).c_str());
  m.def(("march_rays(Tensor origin, Tensor directions, Tensor even, Tensor quantiles, Tensor waves, float near, "
         "float far, bool last_opaque, int density, float[] prior, " + program).c_str());
  m.impl("pack_weight", c10::DispatchKey::CPU, TORCH_FN(pack_weight));
  m.impl("dense_rows", c10::DispatchKey::CPU, TORCH_FN(dense_rows));
  m.impl("upsample_corners", c10::DispatchKey::CPU, TORCH_FN(upsample_corners));
  m.impl("upsample_shuffled", c10::DispatchKey::CPU, TORCH_FN(upsample_shuffled));
  m.impl("march_rays", c10::DispatchKey::CPU, TORCH_FN(march_rays));
}
