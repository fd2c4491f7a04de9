// PyTorch operators on winograd.h, for float images in channels_last: 3x3 convolutions of stride 1 and padding 1, and
// gradients of 3x3 weights. Strips of tiles stay in the cache; sums do not depend on the number of threads.
#include "dense_program.h"
#include "winograd.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cstdlib>
#include <memory>

namespace {

using at::Tensor;
using namespace winograd;

constexpr int64_t kStripBytes = 1 << 19;      // of a thread's transformed inputs
constexpr int64_t kLongStripBytes = 1 << 21;  // of all transformed inputs or gradients of results at a time
constexpr int64_t kTaps = 9, kChunk = 8;      // of a weight; inputs whose weights are transposed at a time
constexpr int64_t kLine = 64;                 // bytes of a line of the caches

Images check(const Tensor& x, const char* what) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat && x.device().is_cpu() &&
                  x.is_contiguous(at::MemoryFormat::ChannelsLast) && x.size(1) % kBlock == 0,
              "winograd: ", what, " must be float images in channels_last with a multiple of ", kBlock,
              " channels on the CPU");
  return {x.size(0), x.size(2), x.size(3)};
}

// Tiles of a strip, a multiple of the kernel's rows.
int64_t strip_tiles(int64_t channels, int64_t bytes, int64_t tiles) {
  const int64_t wanted = bytes / (kFrequencies * channels * int64_t(sizeof(float)));
  return std::min(dense::round_up(std::max<int64_t>(wanted, 1), dense::kRows), tiles);
}

// Memory for so many intermediate values. Every calling thread keeps its own until it needs more: a fresh block, 17 MB
// for 512 channels, would cost a page fault per 4 KB, a tenth of an operator's time.
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

Tensor like(const Tensor& x, int64_t channels) {
  return at::empty({x.size(0), channels, x.size(2), x.size(3)}, x.options(), at::MemoryFormat::ChannelsLast);
}

// A weight of PyTorch's layout, [outputs, inputs, 3, 3], or the one that takes gradients of its results to those of its
// images: [inputs, outputs, 3, 3], mirrored.
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

// The inverse, for the gradient [outputs, inputs, 3, 3].
void scatter(const float* block, int64_t first, int64_t output, int64_t inputs, float* to) {
  for (int64_t n = 0; n < kBlock; n++)
    for (int64_t k = 0; k < kChunk; k++)
      for (int64_t tap = 0; tap < kTaps; tap++)
        to[((output + n) * inputs + first + k) * kTaps + tap] = block[(tap * kChunk + k) * kBlock + n];
}

// Packed weights of every frequency.
void pack_weight(const Taps& taps, float* to) {
  const int64_t size = taps.inputs * taps.outputs;
  at::parallel_for(0, taps.outputs / kBlock, 1, [&](int64_t begin, int64_t end) {
    float block[kTaps * kChunk * kBlock];
    for (int64_t n = begin; n < end; n++)
      for (int64_t k = 0; k < taps.inputs; k += kChunk) {
        gather(taps, k, n * kBlock, block);
        transform_weight(block, kChunk * kBlock, kChunk * kBlock, to + (n * taps.inputs + k) * kBlock, size);
      }
  });
}

// Correlation of x [images, inputs, height, width] with w [outputs, inputs, 3, 3]; `transposed`: what takes gradients of
// results x [images, outputs, height, width] to those of the images.
Tensor winograd_conv(const Tensor& x, const Tensor& w, bool transposed) {
  const Images images = check(x, "the input");
  TORCH_CHECK(images.height % 2 == 0 && images.width % 2 == 0, "winograd: height and width must be even");
  const int side = transposed ? 0 : 1;
  TORCH_CHECK(w.dim() == 4 && w.is_contiguous() && w.scalar_type() == at::kFloat && w.device().is_cpu() &&
                  w.size(2) == 3 && w.size(3) == 3 && w.size(side) == x.size(1) && w.size(1 - side) % kBlock == 0,
              "winograd: the weight must be a contiguous float tensor [outputs, inputs, 3, 3] that fits the input");
  const int64_t inputs = w.size(side), outputs = w.size(1 - side), tiles = images.tiles();
  Tensor y = like(x, outputs);
  if (tiles == 0) return y;
  const int64_t strip = strip_tiles(inputs, kStripBytes, tiles), strips = (tiles + strip - 1) / strip;
  const int64_t packed = kFrequencies * inputs * outputs, per_thread = kFrequencies * strip * (inputs + outputs);
  float *const weights = scratch(packed + inputs + at::get_num_threads() * per_thread), *const zeros = weights + packed,
               *const all = zeros + inputs;
  pack_weight({w.const_data_ptr<float>(), inputs, outputs, transposed}, weights);
  std::fill_n(zeros, inputs, 0.0f);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, strips, 1, [&](int64_t begin, int64_t end) {
    float* const v = all + at::get_thread_num() * per_thread;
    float* const m = v + kFrequencies * strip * inputs;
    for (int64_t s = begin; s < end; s++) {
      const int64_t first = s * strip, count = std::min(strip, tiles - first);
      for (int64_t t = 0; t < count; t++) {
        const float* pixels[16];
        input_pixels(from, images, inputs, first + t, zeros, pixels);
        transform_input(pixels, inputs,
                        [&](int f, int64_t c, Vector value) { store(v + (f * strip + t) * inputs + c, value); });
      }
      for (int f = 0; f < kFrequencies; f++) {
        const dense::Layer<float> layer{weights + f * inputs * outputs, inputs, outputs, nullptr, 1, {}, -1, nullptr};
        const dense::Destination<float> results{m + f * strip * outputs, outputs};
        dense::run_layer(layer, v + f * strip * inputs, inputs, 0, count, static_cast<const float*>(nullptr), 0,
                         results);
      }
      for (int64_t t = 0; t < count; t++)
        transform_output(m + t * outputs, strip * outputs, outputs,
                         to + first_result(images, first + t) * outputs, images.width * outputs);
    }
  });
  return y;
}

// sums [fa, inputs, outputs] of outer products over `total` places: of panels a of `fa` kinds with panels b of `fb`
// kinds, 1 or as many. fill_a(place, put) and fill_b give vectors of channels by put(kind, channel, vector). In scratch
// memory.
template <typename FillA, typename FillB>
const float* outer_products(int64_t total, int64_t fa, int64_t fb, int64_t inputs, int64_t outputs, FillA fill_a,
                            FillB fill_b) {
  const int64_t strip = strip_tiles(std::max(inputs, outputs), kLongStripBytes, total), size = fa * inputs * outputs;
  float *const to = scratch(size + strip * (fa * inputs + fb * outputs)), *const a = to + size,
               *const b = a + strip * fa * inputs;
  std::fill_n(to, size, 0.0f);
  const int64_t panels = outputs / kBlock;
  for (int64_t first = 0; first < total; first += strip) {
    const int64_t count = std::min(strip, total - first);
    at::parallel_for(0, count, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) {
        fill_a(first + t, [&](int64_t f, int64_t c, Vector value) {
          store(a + ((f * inputs + c) * strip + t * kLanes), value);
        });
        fill_b(first + t, [&](int64_t f, int64_t c, Vector value) {
          store(b + (f * outputs + c / kBlock * kBlock) * strip + t * kBlock + c % kBlock, value);
        });
      }
    });
    at::parallel_for(0, fa * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t f = i / panels, n = i % panels * kBlock;
        const float* columns = b + ((fb == 1 ? 0 : f) * outputs + n) * strip;
        for (int64_t k = 0; k < inputs; k += kOuter)
          add_outer_products(a + (f * inputs + k / kLanes * kLanes) * strip + k % kLanes, columns, count,
                             to + (f * inputs + k) * outputs + n, outputs);
      }
    });
  }
  return to;
}

template <typename Put> void copy(const float* from, int64_t channels, int64_t kind, Put put) {
  for (int64_t c = 0; c < channels; c += kLanes) put(kind, c, load(from + c));
}

// From what adds up to the gradient, [kind, inputs, outputs], to the gradient [outputs, inputs, 3, 3]:
// transform(from, stride of kinds, to) takes kBlock neighbouring outputs to taps that are kChunk * kBlock apart.
template <typename Transform>
Tensor weight_from_sums(const float* from, int64_t inputs, int64_t outputs, const at::TensorOptions& options,
                        Transform transform) {
  Tensor dw = at::empty({outputs, inputs, 3, 3}, options);
  float* to = dw.mutable_data_ptr<float>();
  at::parallel_for(0, outputs / kBlock, 1, [&](int64_t begin, int64_t end) {
    float block[kTaps * kChunk * kBlock];
    for (int64_t n = begin * kBlock; n < end * kBlock; n += kBlock)
      for (int64_t first = 0; first < inputs; first += kChunk) {
        for (int64_t k = 0; k < kChunk; k++)
          transform(from + (first + k) * outputs + n, inputs * outputs, block + k * kBlock);
        scatter(block, first, n, inputs, to);
      }
  });
  return dw;
}

// Gradient [outputs, inputs, 3, 3] of the weight, of stride 1 and padding 1, or of stride 2 and no padding.
Tensor conv3x3_weight_gradient(const Tensor& x, const Tensor& dy, int64_t stride) {
  const Images images = check(x, "the input"), results = check(dy, "the gradient");
  const int64_t inputs = x.size(1), outputs = dy.size(1);
  const float *from = x.const_data_ptr<float>(), *gradients = dy.const_data_ptr<float>();
  if (stride == 2) {
    TORCH_CHECK(results.count == images.count && results.height == (images.height - 1) / 2 &&
                    results.width == (images.width - 1) / 2,
                "winograd: the gradient's shape does not fit the input's");
    const int64_t per_image = results.height * results.width;
    const auto fill_a = [&](int64_t place, auto put) {
      const int64_t row = place % per_image / results.width * 2, column = place % results.width * 2;
      const float* corner = from + ((place / per_image * images.height + row) * images.width + column) * inputs;
      for (int64_t f = 0; f < kTaps; f++) copy(corner + (f / 3 * images.width + f % 3) * inputs, inputs, f, put);
    };
    const auto fill_b = [&](int64_t place, auto put) { copy(gradients + place * outputs, outputs, 0, put); };
    const float* sums = outer_products(results.count * per_image, kTaps, 1, inputs, outputs, fill_a, fill_b);
    return weight_from_sums(sums, inputs, outputs, x.options(), [](const float* from, int64_t kind, float* to) {
      for (int64_t tap = 0; tap < kTaps; tap++) std::copy_n(from + tap * kind, kBlock, to + tap * kChunk * kBlock);
    });
  }
  TORCH_CHECK(stride == 1 && results.count == images.count && results.height == images.height &&
                  results.width == images.width && images.height % 2 == 0 && images.width % 2 == 0,
              "winograd: the gradient's shape does not fit the input's");
  const Tensor zero = at::zeros({inputs}, x.options());
  const float* zeros = zero.const_data_ptr<float>();
  const auto fill_a = [&](int64_t tile, auto put) {
    const float* pixels[16];
    input_pixels(from, images, inputs, tile, zeros, pixels);
    transform_input(pixels, inputs, put);
  };
  const auto fill_b = [&](int64_t tile, auto put) {
    transform_gradient(gradients + first_result(images, tile) * outputs, images.width * outputs, outputs, put);
  };
  const float* sums = outer_products(images.tiles(), kFrequencies, kFrequencies, inputs, outputs, fill_a, fill_b);
  return weight_from_sums(sums, inputs, outputs, x.options(), [](const float* from, int64_t kind, float* to) {
    transform_weight_gradient(from, kind, kBlock, to, kChunk * kBlock);
  });
}

TORCH_LIBRARY_FRAGMENT(video3d_cpu, m) {
  m.def("winograd_conv(Tensor x, Tensor w, bool transposed) -> Tensor", &winograd_conv);
  m.def("conv3x3_weight_gradient(Tensor x, Tensor dy, int stride) -> Tensor", &conv3x3_weight_gradient);
}

}  // namespace
