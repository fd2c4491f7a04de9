// Deterministic hierarchical sampling and compositing of rays through a field that is a fused MLP: encoded points,
// layers, weights, importance samples, layers again, weights of all samples, sums. A few rays at a time go through all
// of these steps, and nothing but their sums leaves the cache.
//
// The method is that of renderer/volume_rendering.py and renderer/rays.py, where it is explained.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "fused_mlp.h"
#include "../common/platform.h"
#include "../common/vector_math.h"

namespace march {

constexpr int64_t kTileRows = 112;

// Rays at a time: few enough for their samples to fit into the cache, and enough to keep the kernels busy.
inline int64_t rays_at_once(int64_t samples) { return std::max<int64_t>(kTileRows / samples, 1); }

struct Rays {
  const float *origin, *directions;  // [3], [count, 3]
  int64_t count;
  const float* even;       // positions of the first pass, increasing in [0, 1]
  int64_t samples;
  const float* quantiles;  // of the second pass, increasing in [0, 1]
  int64_t importance;      // number of importance samples: 0 for a single pass
  float near, far;
  bool last_opaque;

  float depth(float position) const { return near + (far - near) * position; }
};

// A fixed Gaussian added to the raw density, peak * exp(-|x - center|^2 / (2 radius^2)); a peak of 0 for none. See
// DensityPrior in training/networks/density.py.
struct DensityPrior {
  float peak, rate;  // rate: 1 / (2 radius^2)
  float center[3];

  float operator()(const float* point) const {
    float square = 0;
    for (int d = 0; d < 3; d++) square += (point[d] - center[d]) * (point[d] - center[d]);
    return peak * vector_math::exp(-rate * square);
  }
};

// Sine and cosine of |x| < 8000, with errors below 2^-22.
inline void sine_cosine(dense::Vector x, dense::Vector& sine, dense::Vector& cosine) {
  // x = n pi / 2 + r. Adding 1.5 * 2^23 rounds to an integer n, whose last bits are then those of the sum; pi / 2 is
  // split, so that n times each of its first two parts is exact.
  const dense::Vector shifted = x * 0.636619772367581343f + 12582912.0f, n = shifted - 12582912.0f;
  const dense::Vector r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.54978995489188216e-8f;
  // Minimax polynomials for |r| <= pi / 4 (Cephes, sinf and cosf).
  const dense::Vector z = r * r;
  const dense::Vector s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
  const dense::Vector c = 1 - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  typedef int32_t Integers __attribute__((vector_size(sizeof(dense::Vector))));
  const Integers quadrant = (Integers)shifted;
  const dense::Vector u = (quadrant & 1) != 0 ? c : s, v = (quadrant & 1) != 0 ? s : c;
  sine = (quadrant & 2) != 0 ? -u : u;
  cosine = ((quadrant + 1) & 2) != 0 ? -v : v;
}

// The sines of plane waves at a point, then the cosines.
class Sinusoids {
 public:
  // `waves`: frequency vectors and phases, [count, 4].
  Sinusoids(const float* waves, int64_t count) : count_(count) {
    for (int64_t d = 0; d < 4; d++) {
      along_[d].resize(dense::round_up(count, dense::kLanes));
      for (int64_t i = 0; i < count; i++) along_[d][i] = waves[4 * i + d];
    }
  }

  int64_t outputs() const { return 2 * count_; }

  void operator()(const float* point, float* to) const {
    for (int64_t i = 0; i < count_; i += dense::kLanes) {
      const dense::Vector angles = point[0] * dense::load(&along_[0][i]) + point[1] * dense::load(&along_[1][i]) +
                                   point[2] * dense::load(&along_[2][i]) + dense::load(&along_[3][i]);
      const int64_t here = std::min<int64_t>(dense::kLanes, count_ - i);
      dense::Vector sine, cosine;
      sine_cosine(angles, sine, cosine);
      dense::store_some(to + i, sine, here), dense::store_some(to + count_ + i, cosine, here);
    }
  }

 private:
  int64_t count_;
  std::vector<float> along_[4];  // the vectors' coordinates, axis by axis, and the phases
};

// Weights of samples at increasing positions; returns the transmittance at the last one.
inline float ray_weights(const Rays& rays, float norm, const float* positions, const float* density, int64_t count,
                         float* weights) {
  for (int64_t i = 0; i + 1 < count; i++) {
    const float delta = (rays.depth(positions[i + 1]) - rays.depth(positions[i])) * norm;
    weights[i] = 1 - vector_math::exp(-std::max(density[i], 0.0f) * delta);  // alpha
  }
  weights[count - 1] = rays.last_opaque ? 1.0f : 0.0f;
  float passed = 1;
  for (int64_t i = 0; i < count; i++) {
    const float alpha = weights[i];
    weights[i] = alpha * passed;
    if (i + 1 < count) passed *= 1 - alpha + 1e-10f;
  }
  return passed;
}

// Inverse-CDF samples between the midpoints of the even positions, by the weights of all but the first and last sample.
// `edges` and `cdf` have room for samples - 1 values.
inline void importance_samples(const Rays& rays, const float* weights, float* edges, float* cdf, float* to) {
  const int64_t count = rays.samples - 1;  // of edges
  float sum = 0;
  for (int64_t i = 1; i < count; i++) sum += weights[i] + 1e-5f;
  cdf[0] = 0;
  for (int64_t i = 1; i < count; i++) cdf[i] = cdf[i - 1] + (weights[i] + 1e-5f) / sum;
  for (int64_t i = 0; i < count; i++) edges[i] = (rays.even[i + 1] + rays.even[i]) / 2;
  int64_t above = 0;  // the first edge at or above u
  for (int64_t j = 0; j < rays.importance; j++) {
    const float u = rays.quantiles[j];
    while (above < count && cdf[above] < u) above++;
    const int64_t high = std::min(above, count - 1), low = std::max<int64_t>(above - 1, 0);
    float step = cdf[high] - cdf[low];
    if (step < 1e-5f) step = 1;
    to[j] = edges[low] + (u - cdf[low]) / step * (edges[high] - edges[low]);
  }
}

// The working memory of one thread.
template <typename T> class Tile {
 public:
  // `wanted`: a pointer for each layer, null if its sum is not requested. The two programs are the same but for the
  // number of rows, that of the first and of the second pass.
  Tile(const Rays& rays, const Sinusoids& encoding, const DensityPrior& prior, const dense::Program<T>& coarse,
       const dense::Program<T>& fine, const float* input_mean, int64_t density, const std::vector<float*>& wanted,
       int64_t most)
      : rays_(rays), encoding_(encoding), prior_(prior), programs_{&coarse, &fine}, input_mean_(input_mean), density_(density),
        buffers_(coarse, most * std::max(rays.samples, rays.importance)) {
    const int64_t rows = most * std::max(rays.samples, rays.importance), all = rays.samples + rays.importance;
    encoded_.resize(rows * encoding.outputs());
    if (converts()) converted_.resize(dense::round_up(rows, dense::kRegisterRows) * stride());
    if (prior.peak != 0) prior_densities_.resize(rows);
    for (int64_t pass = 0; pass < 2; pass++) {
      positions_[pass].resize(rows), raw_[pass].resize(rows);
      kept_[pass].resize(wanted.size());
      for (size_t i = 0; i < wanted.size(); i++)
        if (wanted[i]) kept_[pass][i].resize(rows * coarse.layers()[i].outputs);
      places_[pass].resize(wanted.size());
      for (size_t i = 0; i < wanted.size(); i++) places_[pass][i] = wanted[i] ? kept_[pass][i].data() : nullptr;
      places_[pass][density] = raw_[pass].data();
    }
    for (auto* line : {&sorted_, &density_sorted_, &weights_, &edges_, &cdf_}) line->resize(all);
    order_.resize(all);
  }

  // Rays [first, first + count); `sums` by layer, of all rays.
  void run(int64_t first, int64_t count, const std::vector<float*>& sums, float* weight_sum, float* depth,
           float* transmittance) {
    const int64_t samples = rays_.samples;
    for (int64_t r = 0; r < count; r++) std::copy(rays_.even, rays_.even + samples, &positions_[0][r * samples]);
    evaluate(0, first, count, samples);
    if (rays_.importance > 0) {
      for (int64_t r = 0; r < count; r++) {
        ray_weights(rays_, norm(first + r), rays_.even, &raw_[0][r * samples], samples, weights_.data());
        importance_samples(rays_, weights_.data(), edges_.data(), cdf_.data(), &positions_[1][r * rays_.importance]);
      }
      evaluate(1, first, count, rays_.importance);
    }
    for (int64_t r = 0; r < count; r++) {
      transmittance[first + r] = merge(r, norm(first + r));
      weight_sum[first + r] = depth[first + r] = 0;
      for (size_t i = 0; i < sums.size(); i++) {
        if (!sums[i]) continue;
        const int64_t width = programs_[0]->layers()[i].outputs;
        std::fill(sums[i] + (first + r) * width, sums[i] + (first + r + 1) * width, 0.0f);
      }
      const int64_t all = samples + rays_.importance;
      for (int64_t j = 0; j < all; j++) {
        const float weight = weights_[j];
        weight_sum[first + r] += weight;
        depth[first + r] += weight * rays_.depth(sorted_[j]);
        if (weight == 0) continue;
        const bool second = order_[j] >= samples;
        const int64_t row = second ? r * rays_.importance + order_[j] - samples : r * samples + order_[j];
        for (size_t i = 0; i < sums.size(); i++)
          if (sums[i]) add(i, weight, second, row, sums[i], first + r);
      }
    }
  }

 private:
  bool converts() const { return sizeof(T) < 4 || input_mean_; }
  int64_t stride() const { return dense::round_up(encoding_.outputs(), dense::kWhole<T>); }

  const float* direction(int64_t ray) const { return rays_.directions + 3 * ray; }
  float norm(int64_t ray) const {
    const float* d = direction(ray);
    return std::sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
  }

  void evaluate(int pass, int64_t first, int64_t count, int64_t samples) {
    const int64_t inputs = encoding_.outputs();
    for (int64_t r = 0; r < count; r++)
      for (int64_t j = 0; j < samples; j++) {
        const float depth = rays_.depth(positions_[pass][r * samples + j]);
        float point[3];
        for (int d = 0; d < 3; d++) point[d] = rays_.origin[d] + depth * direction(first + r)[d];
        encoding_(point, &encoded_[(r * samples + j) * inputs]);
        if (prior_.peak != 0) prior_densities_[r * samples + j] = prior_(point);
      }
    const dense::Program<T>& program = *programs_[pass];
    float* const* kept = places_[pass].data();
    if (converts()) {
      dense::convert(encoded_.data(), inputs, count * samples, inputs, input_mean_, converted_.data(), stride());
      program.run(converted_.data(), stride(), first * samples, count * samples, nullptr, 0, kept, buffers_);
    } else if constexpr (sizeof(T) == 4) {
      program.run(encoded_.data(), inputs, first * samples, count * samples, nullptr, 0, kept, buffers_);
    }
    if (prior_.peak != 0)
      for (int64_t i = 0; i < count * samples; i++) raw_[pass][i] += prior_densities_[i];
  }

  // Sorts the samples of ray `r` of the tile along the ray and weighs them; returns the transmittance.
  float merge(int64_t r, float norm) {
    int64_t count = 0;
    const auto insert = [&](float position, float density, int64_t index) {
      int64_t at = count++;
      for (; at > 0 && sorted_[at - 1] > position; at--)
        sorted_[at] = sorted_[at - 1], density_sorted_[at] = density_sorted_[at - 1], order_[at] = order_[at - 1];
      sorted_[at] = position, density_sorted_[at] = density, order_[at] = index;
    };
    const int64_t samples = rays_.samples, importance = rays_.importance;
    for (int64_t j = 0, k = 0; j < samples || k < importance;) {
      const float first = j < samples ? positions_[0][r * samples + j] : 0;
      const float second = k < importance ? positions_[1][r * importance + k] : 0;
      if (k >= importance || (j < samples && first <= second))
        insert(first, raw_[0][r * samples + j], j), j++;
      else
        insert(second, raw_[1][r * importance + k], samples + k), k++;
    }
    return ray_weights(rays_, norm, sorted_.data(), density_sorted_.data(), count, weights_.data());
  }

  void add(size_t layer, float weight, bool second, int64_t row, float* sums, int64_t ray) {
    const int64_t width = programs_[0]->layers()[layer].outputs;
    const float* from = places_[second][layer] + row * width;
    float* to = sums + ray * width;
    for (int64_t c = 0; c < width; c++) to[c] += weight * from[c];
  }

  const Rays& rays_;
  const Sinusoids& encoding_;
  const DensityPrior& prior_;
  const dense::Program<T>* programs_[2];
  const float* input_mean_;
  int64_t density_;
  typename dense::Program<T>::Buffers buffers_;
  std::vector<float> encoded_, prior_densities_, positions_[2], raw_[2];
  std::vector<float> sorted_, density_sorted_, weights_, edges_, cdf_;
  std::vector<T> converted_;
  std::vector<std::vector<float>> kept_[2];
  std::vector<float*> places_[2];
  std::vector<int64_t> order_;
};

}  // namespace march
