// PyTorch operators of winograd.h, for float or bfloat16 images in channels_last: 3x3 convolutions of stride 1 and
// padding 1 or stride 2 and no padding, and their gradients. Strips of tiles stay in the caches; sums do not depend on
// the number of threads.
#include "../fused_mlp/fused_mlp.h"
#include "winograd.h"

#include <ATen/Parallel.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstdlib>
#include <memory>

namespace {

using at::Tensor;
using namespace winograd;

constexpr int64_t kTaps = 9, kChunk = 8;  // taps of a weight; inputs whose weights are transposed at a time
constexpr int64_t kLine = 64;             // bytes of a cache line
// Padding in values between the data of different products: with strides that are powers of two, they would all compete
// for the same few cache sets.
constexpr int64_t kApart = kLine / sizeof(float);

// Size of a strip, the tiles that are transformed at a time, in products per pair of an input and an output channel;
// weights are fetched from memory once per strip. For gradients of weights, whose sums are fetched instead, the size is
// given in bytes.
constexpr int64_t kStrip = 36 * 16 * dense::kRows, kStripBytes = 16 << 20;
// Inputs and outputs of a thread's share of a product's matrix, which then stays in the L2 cache.
constexpr int64_t kInputs = 128, kOutputs = 2 * kBlock;
// Terms of a sum in registers: many short sums are more exact than a long one. Their factors fit into the L1 cache.
constexpr int64_t kTerms = 256;

Images check(const Tensor& x, const char* what) {
  TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) &&
                  x.device().is_cpu() && x.is_contiguous(at::MemoryFormat::ChannelsLast) && x.size(1) % kBlock == 0,
              "winograd: ", what, " must be images of float or bfloat16 in channels_last with a multiple of ", kBlock,
              " channels on the CPU");
  return {x.size(0), x.size(2), x.size(3)};
}

int64_t pieces(int64_t total, int64_t size) { return (total + size - 1) / size; }

// Tiles per strip: about `most` at most, a multiple of the kernel's rows, and as equal between strips as possible.
int64_t strip_tiles(int64_t tiles, int64_t most) {
  const int64_t strips = pieces(tiles, std::max<int64_t>(most, 1));
  return std::min(dense::round_up((tiles + strips - 1) / strips, dense::kRows), tiles);
}

// Calls run(T{}) with the type of a tensor's values.
template <typename Run> void with_type(const Tensor& x, Run run) {
  if (x.scalar_type() == at::kFloat)
    run(float{});
  else
    run(Bfloat16{});
}

template <typename T> const T* values_of(const Tensor& x) { return static_cast<const T*>(x.const_data_ptr()); }

// Memory for `count` intermediate values. Every calling thread keeps its own until it needs more: a fresh block, 54 MB
// for 512 channels, would cost a page fault per 4 KB.
float* scratch(int64_t count) {
  struct Free {
    void operator()(float* values) const { std::free(values); }
  };
  thread_local std::unique_ptr<float, Free> kept;
  thread_local int64_t size = 0;
  if (size < count) {
    size = 0;
    kept.reset();
    kept.reset(static_cast<float*>(std::aligned_alloc(kLine, dense::round_up(count * sizeof(float), kLine))));
    TORCH_CHECK(kept != nullptr, "winograd: not enough memory for ", count * sizeof(float), " bytes");
    size = count;
  }
  return kept.get();
}

// ---------------------------------------------------------------------------------------------------------------------
// Convolutions

// A weight in PyTorch's layout, [outputs, inputs, 3, 3], or, mirrored, the one that maps gradients of results to those
// of images, [inputs, outputs, 3, 3].
struct Taps {
  const float* values;
  int64_t inputs, outputs;
  bool transposed;

  const float* of(int64_t input, int64_t output) const {
    return values + (transposed ? input * outputs + output : output * inputs + input) * kTaps;
  }
};

// Inputs [first, first + kChunk) and kBlock outputs from `output` on to block [tap][input][output].
void gather(const Taps& taps, int64_t first, int64_t output, float* block) {
  const int64_t last = kTaps - 1;
  for (int64_t i = 0; i < kBlock * kChunk; i++) {
    const int64_t k = taps.transposed ? i / kBlock : i % kChunk, n = taps.transposed ? i % kBlock : i / kChunk;
    const float* from = taps.of(first + k, output + n);
    for (int64_t tap = 0; tap < kTaps; tap++)
      block[((taps.transposed ? last - tap : tap) * kChunk + k) * kBlock + n] = from[tap];
  }
}

// Packed weights of `count` outputs from `first` on; those of different products are `weight` values apart.
template <typename Line> void pack_weight(const Taps& taps, int64_t first, int64_t count, float* to, int64_t weight) {
  float block[kTaps * kChunk * kBlock];
  for (int64_t n = 0; n < count; n += kBlock)
    for (int64_t k = 0; k < taps.inputs; k += kChunk) {
      gather(taps, k, first + n, block);
      transform_weight<Line, Line>(block, kChunk * kBlock, kChunk * kBlock, to + n * taps.inputs + k * kBlock, weight);
    }
}

// m [rows, outputs] = v [rows, inputs] times packed weights.
void multiply(const float* v, int64_t rows, int64_t inputs, const float* weights, int64_t outputs, float* m) {
  for (int64_t k = 0; k < inputs; k += kTerms)
    for (int64_t n = 0; n < outputs; n += kBlock) {
      const float* const factors = weights + n * inputs + k * kBlock;
      const dense::Layer<float> layer{factors, std::min(kTerms, inputs - k), kBlock, nullptr, 1, {}, -1, nullptr};
      dense::run_layer(layer, v + k, inputs, 0, rows, k > 0 ? m + n : nullptr, outputs, {m + n, outputs});
    }
}

// Correlation of x [images, inputs, height, width] with taps, along both axes by `Line`, to y [images, outputs,
// height', width'].
template <typename Line, typename T> void convolve(const Tensor& x, const Taps& taps, Tensor& y) {
  constexpr int64_t kProducts = Line::kProducts * Line::kProducts, kWeights = Line::kWeights * Line::kWeights;
  const Images images{x.size(0), x.size(2), x.size(3)}, results{y.size(0), y.size(2), y.size(3)};
  const Tiles<Line, Line> all{results};
  const int64_t inputs = taps.inputs, outputs = taps.outputs, tiles = all.count();
  const int64_t strip = strip_tiles(tiles, kStrip / kProducts), threads = at::get_num_threads(),
                groups = pieces(outputs, kOutputs);
  // Tiles of a thread's share: the whole strip, if that leaves a share for each thread.
  const int64_t share = groups < threads ? std::min(dense::round_up(pieces(strip, 4), dense::kRows), strip) : strip;
  // Weights that are needed only once are packed by the thread that needs them, in whose cache they stay.
  const bool once = strip == tiles && share == strip;

  const int64_t packed_outputs = once ? kOutputs : outputs, packed_weight = packed_outputs * inputs + kApart;
  const int64_t v_product = strip * inputs + kApart, m_product = share * kOutputs + kApart;
  const int64_t of_weights = kWeights * packed_weight, of_m = kProducts * m_product;
  float *const v = scratch(kProducts * v_product + inputs + threads * of_m + (once ? threads : 1) * of_weights),
               *const none = v + kProducts * v_product, *const all_m = none + inputs,
               *const all_weights = all_m + threads * of_m;
  std::fill_n(none, inputs, 0.0f);
  const T* const zeros = reinterpret_cast<const T*>(none);
  if (!once)
    at::parallel_for(0, outputs / kBlock, 1, [&](int64_t begin, int64_t end) {
      pack_weight<Line>(taps, begin * kBlock, (end - begin) * kBlock, all_weights + begin * kBlock * inputs,
                        packed_weight);
    });
  const T* const from = values_of<T>(x);
  T* const to = static_cast<T*>(y.mutable_data_ptr());
  for (int64_t first = 0; first < tiles; first += strip) {
    const int64_t count = std::min(strip, tiles - first);
    at::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const T* pixels[all.kInputs];
        all.find_inputs(from, images, inputs, first + t, zeros, pixels);
        transform_input<Line, Line>(pixels, inputs, [&](int f, int64_t c, Vector value) {
          store(v + f * v_product + t * inputs + c, value);
        });
      }
    });
    at::parallel_for(0, groups * pieces(count, share), 1, [&](int64_t begin, int64_t end) {
      float* const m = all_m + at::get_thread_num() * of_m;
      for (int64_t i = begin; i < end; i++) {
        const int64_t n = i % groups * kOutputs, width = std::min(kOutputs, outputs - n);
        const int64_t start = i / groups * share, rows = std::min(share, count - start);
        float* weights = all_weights + n * inputs;
        if (once) {
          weights = all_weights + at::get_thread_num() * of_weights;
          pack_weight<Line>(taps, n, width, weights, packed_weight);
        }
        for (int f = 0; f < kProducts; f++)
          multiply(v + f * v_product + start * inputs, rows, inputs,
                   weights + weight_of<Line, Line>(f) * packed_weight, width,
                   m + f * m_product);
        for (int64_t t = 0; t < rows; t++)
          transform_output<Line, Line>(m + t * width, m_product, width,
                                       to + all.first_result(first + start + t) * outputs + n, outputs,
                                       results.width * outputs);
      }
    });
  }
}

// Checks a weight [outputs, inputs, 3, 3] for images x of its inputs, or, `transposed`, gradients of its outputs.
void check_weight(const Tensor& w, const Tensor& x, bool transposed) {
  const int side = transposed ? 0 : 1;
  TORCH_CHECK(w.dim() == 4 && w.is_contiguous() && w.scalar_type() == x.scalar_type() && w.device().is_cpu() &&
                  w.size(2) == 3 && w.size(3) == 3 && w.size(side) == x.size(1) && w.size(1 - side) % kBlock == 0,
              "winograd: the weight must be a contiguous tensor [outputs, inputs, 3, 3] that fits the input");
}

// By tiles of results.
template <typename Line> void convolve(const Tensor& x, const Tensor& w, bool transposed, Tensor& y) {
  if (x.numel() == 0 || y.numel() == 0) return;
  const Tensor values = w.to(at::kFloat);
  const int side = transposed ? 0 : 1;
  const Taps taps{values.const_data_ptr<float>(), w.size(side), w.size(1 - side), transposed};
  with_type(x, [&](auto type) { convolve<Line, decltype(type)>(x, taps, y); });
}

Tensor new_images(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  return at::empty({like.size(0), channels, height, width}, like.options(), at::MemoryFormat::ChannelsLast);
}

// Sizes of results: multiples of 4 that fit the images.
bool fits(int64_t result, int64_t image, int64_t stride) {
  return result % 4 == 0 && result == (stride == 1 ? image : (image - 1) / 2);
}

// Correlation of x [images, inputs, height, width] with w [outputs, inputs, 3, 3] of the same type, of stride 1 and
// padding 1, or of stride 2 and no padding.
Tensor conv3x3(const Tensor& x, const Tensor& w, int64_t stride) {
  const Images images = check(x, "the input");
  check_weight(w, x, false);
  TORCH_CHECK(stride == 1 || stride == 2, "winograd: stride 1 or 2");
  const auto size = [&](int64_t of_images) { return stride == 1 ? of_images : (of_images - 1) / 2; };
  TORCH_CHECK(size(images.height) % 4 == 0 && size(images.width) % 4 == 0,
              "winograd: height and width of results must be multiples of 4");
  Tensor y = new_images(x, w.size(0), size(images.height), size(images.width));
  if (stride == 1)
    convolve<Dense>(x, w, false, y);
  else
    convolve<Down>(x, w, false, y);
  return y;
}

// Gradients of results dy [images, outputs, height', width'] to those of the images, of size `height` and `width`.
Tensor conv3x3_image_gradient(const Tensor& dy, const Tensor& w, int64_t stride, int64_t height, int64_t width) {
  const Images results = check(dy, "the gradient");
  check_weight(w, dy, true);
  TORCH_CHECK(stride == 1 || stride == 2, "winograd: stride 1 or 2");
  TORCH_CHECK(fits(results.height, height, stride) && fits(results.width, width, stride),
              "winograd: the gradient's shape does not fit the image's, or is no multiple of 4");
  Tensor dx = new_images(dy, w.size(1), height, width);
  if (stride == 1) return convolve<Dense>(dy, w, true, dx), dx;
  if (dx.numel() == 0 || dy.numel() == 0) return dx.zero_();
  convolve<Up>(dy, w, true, dx);
  // The last row and column that results depend on lie beyond the last tile and get one tap each. Further pixels get 0.
  const int64_t bottom = 2 * results.height, right = 2 * results.width;
  dx.slice(2, bottom + 1).zero_();
  dx.slice(3, right + 1).zero_();
  const auto edge = [&](int64_t axis, int64_t last) {
    return at::conv_transpose2d(dy.slice(axis, last - 1), w.slice(axis, 2), {}, 2);
  };
  dx.slice(2, bottom, bottom + 1).slice(3, 0, right + 1).copy_(edge(2, results.height));
  dx.slice(3, right, right + 1).slice(2, 0, bottom + 1).copy_(edge(3, results.width));
  return dx;
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients of weights

// Sums of products for kChunk inputs and kBlock outputs, with products `kind` values apart, to those taps of dw
// [outputs, inputs, 3, 3] that V and H have.
template <typename V, typename H>
void scatter(const float* sums, int64_t kind, int64_t first, int64_t output, int64_t inputs, float* dw) {
  constexpr int64_t kSize = kChunk * kBlock;
  float block[V::kTaps * H::kTaps * kSize];
  transform_weight_gradient<V, H>(sums, kind, kSize, block, kSize);
  for (int64_t n = 0; n < kBlock; n++)
    for (int64_t k = 0; k < kChunk; k++)
      for (int64_t i = 0; i < V::kTaps; i++)
        for (int64_t j = 0; j < H::kTaps; j++)
          dw[((output + n) * inputs + first + k) * kTaps + V::tap(i) * 3 + H::tap(j)] =
              block[(i * H::kTaps + j) * kSize + k * kBlock + n];
}

template <typename T> struct Operands {
  const T *x, *dy, *zeros;
  Images images, results;
  int64_t inputs, outputs;
};

// Those taps of dw [outputs, inputs, 3, 3] that V and H have: sums of outer products over tiles.
template <typename V, typename H, typename T> void weight_gradient(const Operands<T>& operands, float* dw) {
  constexpr int64_t kKinds = V::kProducts * H::kProducts;
  const Tiles<V, H> all{operands.results};
  const int64_t inputs = operands.inputs, outputs = operands.outputs, tiles = all.count();
  const int64_t strip = strip_tiles(
      tiles, std::min(kTerms, kStripBytes / (kKinds * (inputs + outputs) * int64_t(sizeof(float)))));
  const int64_t threads = at::get_num_threads();
  int64_t wide = kInputs, high = kOutputs;
  if (pieces(inputs, wide) * pieces(outputs, high) < threads) wide = high = kBlock;
  const int64_t across = pieces(inputs, wide), shares = across * pieces(outputs, high);
  const bool once = strip == tiles;  // no sums are kept between strips
  // For each share: panels a [kind][input / kLanes][tile][kLanes] and b [kind][output / kBlock][tile][kBlock], and sums
  // [kind][output / kBlock][input][kBlock].
  const int64_t a_kind = inputs * strip + kApart, b_kind = outputs * strip + kApart, sum_kind = wide * high + kApart;
  float *const a = scratch(kKinds * (a_kind + b_kind + (once ? threads : shares) * sum_kind)),
               *const b = a + kKinds * a_kind, *const all_sums = b + kKinds * b_kind;

  for (int64_t first = 0; first < tiles; first += strip) {
    const int64_t count = std::min(strip, tiles - first);
    at::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        const T* pixels[kKinds];
        all.find_inputs(operands.x, operands.images, inputs, first + t, operands.zeros, pixels);
        transform_input<V, H>(pixels, inputs, [&](int f, int64_t c, Vector value) {
          store(a + f * a_kind + c * strip + t * kLanes, value);
        });
        transform_gradient<V, H>(
            operands.dy + all.first_result(first + t) * outputs, operands.results.width * outputs, outputs,
            [&](int f, int64_t c, Vector value) {
              store(b + f * b_kind + c / kBlock * kBlock * strip + t * kBlock + c % kBlock, value);
            });
      }
    });
    at::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t k0 = i % across * wide, k1 = std::min(k0 + wide, inputs);
        const int64_t n0 = i / across * high, n1 = std::min(n0 + high, outputs);
        float* const own = all_sums + (once ? at::get_thread_num() : i) * kKinds * sum_kind;
        const auto sums = [&](int64_t k, int64_t n) { return own + (n - n0) * wide + (k - k0) * kBlock; };
        for (int64_t f = 0; f < kKinds; f++)
          for (int64_t n = n0; n < n1; n += kBlock)
            for (int64_t k = k0; k < k1; k += kOuter)
              outer_products(a + f * a_kind + k / kLanes * kLanes * strip + k % kLanes, b + f * b_kind + n * strip,
                             count, first > 0, sums(k, n) + f * sum_kind);
        if (first + count == tiles)
          for (int64_t n = n0; n < n1; n += kBlock)
            for (int64_t k = k0; k < k1; k += kChunk) scatter<V, H>(sums(k, n), sum_kind, k, n, inputs, dw);
      }
    });
  }
}

// Gradient [outputs, inputs, 3, 3] of the weight, of stride 1 and padding 1, or of stride 2 and no padding.
Tensor conv3x3_weight_gradient(const Tensor& x, const Tensor& dy, int64_t stride) {
  const Images images = check(x, "the input"), results = check(dy, "the gradient");
  TORCH_CHECK(stride == 1 || stride == 2, "winograd: stride 1 or 2");
  TORCH_CHECK(results.count == images.count && fits(results.height, images.height, stride) &&
                  fits(results.width, images.width, stride),
              "winograd: the gradient's shape does not fit the input's, or is no multiple of 4");
  TORCH_CHECK(x.scalar_type() == dy.scalar_type(), "winograd: the input and the gradient must be of the same type");
  Tensor dw = at::empty({dy.size(1), x.size(1), 3, 3}, x.options().dtype(at::kFloat));
  if (results.count == 0 || results.height == 0 || results.width == 0) return dw.zero_().to(x.scalar_type());
  float* const to = dw.mutable_data_ptr<float>();
  with_type(x, [&](auto type) {
    using T = decltype(type);
    const std::unique_ptr<T[]> zeros(new T[x.size(1)]());
    const Operands<T> operands{values_of<T>(x), values_of<T>(dy), zeros.get(), images, results, x.size(1), dy.size(1)};
    if (stride == 1) {
      weight_gradient<Dense, Dense>(operands, to);
    } else {
      weight_gradient<Even, Even>(operands, to);
      weight_gradient<Even, Odd>(operands, to);
      weight_gradient<Odd, Even>(operands, to);
      weight_gradient<Odd, Odd>(operands, to);
    }
  });
  return dw.to(x.scalar_type());
}

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
  m.def("conv3x3(Tensor x, Tensor w, int stride) -> Tensor", &conv3x3);
  m.def("conv3x3_image_gradient(Tensor dy, Tensor w, int stride, int height, int width) -> Tensor",
        &conv3x3_image_gradient);
  m.def("conv3x3_weight_gradient(Tensor x, Tensor dy, int stride) -> Tensor", &conv3x3_weight_gradient);
}

}  // namespace
