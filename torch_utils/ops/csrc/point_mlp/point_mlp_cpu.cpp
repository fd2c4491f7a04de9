// PyTorch operators of point_mlp.h.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../fused_mlp/fused_mlp_binding.h"
#include "point_mlp.h"

namespace {

using at::Tensor;
using point_mlp::Mlp;

// The weights of all videos, packed one after another.
struct Packed {
  std::vector<float> values;
  int64_t step = 0;

  Packed(const Tensor& weight, bool transposed) {
    const int64_t count = weight.size(0), outputs = weight.size(transposed ? 2 : 1), inputs = weight.size(transposed ? 1 : 2);
    const int64_t size = dense::packed_size<float>(outputs, inputs);
    values.resize(count * size);
    const int64_t out = weight.stride(transposed ? 2 : 1), in = weight.stride(transposed ? 1 : 2);
    for (int64_t b = 0; b < count; b++)
      dense::pack(weight.const_data_ptr<float>() + b * weight.stride(0), outputs, inputs, out, in, &values[b * size]);
    step = count > 1 ? size : 0;
  }
};

// An MLP that owns its weights and biases.
struct BoundMlp {
  Mlp mlp;
  std::vector<Packed> weights, transposed;
  std::vector<dense::Padded> biases;

  // x [B, 1 or T, N, inputs]; weights [B or 1, outputs, inputs], biases [B or 1, T or 1, runs or 1, outputs] or empty.
  BoundMlp(const Tensor& x, at::TensorList weight, at::TensorList bias, at::IntArrayRef sources,
           at::ArrayRef<double> slopes, at::ArrayRef<double> clamps, int64_t frames, bool backward, bool wants_x = false) {
    dense::check_input(x, 4);
    const size_t count = weight.size();
    TORCH_CHECK(count > 0 && bias.size() == count && sources.size() == count && slopes.size() == count &&
                    clamps.size() == count,
                "point_mlp: lists of different lengths");
    mlp.videos = x.size(0), mlp.frames = frames, mlp.points = x.size(2), mlp.inputs = x.size(3);
    TORCH_CHECK(x.size(1) == 1 || x.size(1) == frames, "point_mlp: inputs of ", x.size(1), " frames for ", frames);
    mlp.shared = x.size(1) == 1 && frames > 1;
    mlp.split = count;
    mlp.x = x.const_data_ptr<float>();
    for (size_t i = 0; i < count; i++) {
      const Tensor &w = weight[i], &b = bias[i];
      point_mlp::Layer layer{};
      layer.source = sources[i];
      TORCH_CHECK((i == 0) == (layer.source < 0) && layer.source < int(i),
                  "point_mlp: the first layer takes the inputs, the others the results of an earlier one");
      layer.inputs = i == 0 ? mlp.inputs : mlp.layers[layer.source].outputs;
      TORCH_CHECK(w.dim() == 3 && w.scalar_type() == at::kFloat && w.size(2) == layer.inputs &&
                      (w.size(0) == 1 || w.size(0) == mlp.videos),
                  "point_mlp: the weight of layer ", i, " does not fit its inputs");
      layer.outputs = w.size(1);
      TORCH_CHECK(i == 0 || mlp.layers[layer.source].outputs > dense::kNarrow,
                  "point_mlp: a layer of at most ", dense::kNarrow, " outputs feeds no other");
      layer.activation = {float(slopes[i]), float(clamps[i])};
      layer.bias_videos = layer.bias_frames = layer.bias_runs = 1;
      if (b.numel()) {
        TORCH_CHECK(b.dim() == 4 && b.scalar_type() == at::kFloat && b.size(3) == layer.outputs &&
                        (b.size(0) == 1 || b.size(0) == mlp.videos) && (b.size(1) == 1 || b.size(1) == frames) &&
                        mlp.points % b.size(2) == 0,
                    "point_mlp: layer ", i, " has a bias of the wrong shape or type");
        layer.bias_videos = b.size(0), layer.bias_frames = b.size(1), layer.bias_runs = b.size(2);
      }
      if (mlp.shared && layer.bias_frames > 1 && mlp.split == int(count)) mlp.split = i;
      TORCH_CHECK(int(i) <= mlp.split || layer.source >= mlp.split,
                  "point_mlp: layer ", i, " takes results from before the frames differ");
      TORCH_CHECK(int(i) != mlp.split || layer.bias_runs == 1, "point_mlp: the split has one bias per frame");
      mlp.layers.push_back(layer);
    }
    int64_t runs = 1;
    for (const auto& layer : mlp.layers) {
      TORCH_CHECK(runs == 1 || layer.bias_runs == 1 || layer.bias_runs == runs, "point_mlp: runs of different lengths");
      runs = std::max(runs, layer.bias_runs);
    }
    for (size_t i = 0; i < count; i++) {
      weights.emplace_back(weight[i], false), biases.emplace_back(bias[i]);
      if (backward && (i > 0 || wants_x)) transposed.emplace_back(weight[i], true);
    }
    for (size_t i = 0; i < count; i++) {
      auto& layer = mlp.layers[i];
      layer.weight = weights[i].values.data(), layer.weight_step = weights[i].step;
      layer.bias = biases[i].data();
      if (backward && (i > 0 || wants_x)) {
        const Packed& own = transposed[i - (wants_x ? 0 : 1)];
        layer.transposed = own.values.data(), layer.transposed_step = own.step;
      }
    }
  }

  std::vector<int64_t> result_shape(int layer) const {
    return {mlp.videos, mlp.frames_of(layer), mlp.points, mlp.layers[layer].outputs};
  }
};

// work(video, chunk, frame, first, count) for all tiles; make() returns a thread's `work`. A chunk stays on one thread.
template <typename Make> void for_tiles(const Mlp& mlp, const Make& make) {
  const int64_t chunks = mlp.chunks(), tile = mlp.tile(), frames = mlp.shared ? 1 : mlp.frames;
  dense::in_parallel(mlp.videos * chunks, [&] {
    return [&, work = make()](int64_t i) mutable {
      const int64_t video = i / chunks, chunk = i % chunks;
      const int64_t begin = mlp.chunk_begin(chunk), end = mlp.chunk_begin(chunk + 1);
      for (int64_t frame = 0; frame < frames; frame++)
        for (int64_t first = begin; first < end; first += tile)
          work(video, chunk, frame, first, std::min(tile, end - first));
    };
  });
}

// The results of the layers of `keep` [B, F, N, outputs], F being 1 before the frames differ.
std::vector<Tensor> point_mlp_forward(const Tensor& x, at::TensorList weights, at::TensorList biases,
                                      at::IntArrayRef sources, at::ArrayRef<double> slopes,
                                      at::ArrayRef<double> clamps, int64_t frames, at::IntArrayRef keep) {
  BoundMlp bound(x, weights, biases, sources, slopes, clamps, frames, false);
  std::vector<Tensor> results;
  for (const int64_t i : keep) {
    TORCH_CHECK(i >= 0 && i < bound.mlp.size(), "point_mlp: no layer ", i);
    results.push_back(at::empty(bound.result_shape(i), x.options()));
    bound.mlp.layers[i].result = results.back().mutable_data_ptr<float>();
  }
  for_tiles(bound.mlp, [&] {
    return [run = point_mlp::Forward(bound.mlp)](int64_t video, int64_t, int64_t frame, int64_t first,
                                                 int64_t count) mutable { run.run(video, frame, first, count); };
  });
  return results;
}

// Gradients: of x (empty if not requested), then of the weights, shaped like them, then of the biases [B, F, runs,
// outputs] (empty without one). `gradients` of the layers' results are empty where there are none.
std::vector<Tensor> point_mlp_backward(const Tensor& x, at::TensorList weights, at::TensorList biases,
                                       at::IntArrayRef sources, at::ArrayRef<double> slopes,
                                       at::ArrayRef<double> clamps, int64_t frames, at::TensorList results,
                                       at::TensorList gradients, bool wants_x) {
  BoundMlp bound(x, weights, biases, sources, slopes, clamps, frames, true, wants_x);
  Mlp& mlp = bound.mlp;
  TORCH_CHECK(int(results.size()) == mlp.size() && int(gradients.size()) == mlp.size(),
              "point_mlp: lists of different lengths");
  std::vector<point_mlp::LayerGradients> all(mlp.size());
  std::vector<Tensor> for_weights, for_biases;
  const int64_t chunks = mlp.chunks();
  for (int i = 0; i < mlp.size(); i++) {
    auto& layer = mlp.layers[i];
    const auto shape = bound.result_shape(i);
    for (const Tensor& t : {results[i], gradients[i]})
      TORCH_CHECK((t.numel() == 0 && &t != &results[i]) || (t.sizes() == shape && t.is_contiguous() && t.scalar_type() == at::kFloat),
                  "point_mlp: a result or gradient of layer ", i, " has the wrong shape or type");
    layer.result = const_cast<float*>(results[i].const_data_ptr<float>());
    all[i].result = gradients[i].numel() ? gradients[i].const_data_ptr<float>() : nullptr;
    const int64_t width = dense::round_up(layer.inputs, dense::kLanes);
    for_weights.push_back(at::zeros({mlp.videos, chunks, layer.outputs, width}, x.options()));
    all[i].weight = for_weights[i].mutable_data_ptr<float>();
    for_biases.push_back({});
    if (biases[i].numel()) {
      const int64_t count = mlp.frames_of(i);
      for_biases[i] = layer.bias_runs > 1
                          ? at::zeros({mlp.videos, 1, count, layer.bias_runs, layer.stride()}, x.options())
                          : at::zeros({mlp.videos, chunks, count, 1, layer.stride()}, x.options());
      all[i].bias = for_biases[i].mutable_data_ptr<float>();
    }
  }
  Tensor dx = wants_x ? at::empty_like(x) : at::empty({0}, x.options());
  float* to_x = wants_x ? dx.mutable_data_ptr<float>() : nullptr;
  for_tiles(mlp, [&] {
    return [run = point_mlp::Backward(mlp, all, to_x)](int64_t video, int64_t chunk, int64_t frame, int64_t first,
                                                      int64_t count) mutable { run.run(video, chunk, frame, first, count); };
  });
  // The chunks add up in order.
  std::vector<Tensor> made{dx};
  for (int i = 0; i < mlp.size(); i++) {
    Tensor sum = for_weights[i].sum(weights[i].size(0) == 1 ? at::IntArrayRef({0, 1}) : at::IntArrayRef({1}));
    made.push_back(sum.reshape({weights[i].size(0), mlp.layers[i].outputs, -1}).narrow(2, 0, mlp.layers[i].inputs));
  }
  for (int i = 0; i < mlp.size(); i++)
    made.push_back(for_biases[i].defined() ? for_biases[i].sum(1).narrow(3, 0, mlp.layers[i].outputs)
                                           : at::empty({0}, x.options()));
  return made;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
  m.def("point_mlp_forward(Tensor x, Tensor[] weights, Tensor[] biases, int[] sources, float[] slopes, float[] clamps, "
        "int frames, int[] keep) -> Tensor[]");
  m.def("point_mlp_backward(Tensor x, Tensor[] weights, Tensor[] biases, int[] sources, float[] slopes, "
        "float[] clamps, int frames, Tensor[] results, Tensor[] gradients, bool wants_x) -> Tensor[]");
  m.impl("point_mlp_forward", c10::DispatchKey::CPU, TORCH_FN(point_mlp_forward));
  m.impl("point_mlp_backward", c10::DispatchKey::CPU, TORCH_FN(point_mlp_backward));
}
