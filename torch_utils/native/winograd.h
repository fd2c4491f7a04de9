// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks"): 16 products for the four results of a tile of 2x2 instead of 36.
//
//   y = A^T [ (G w G^T) * (B^T d B) ] A       d: the tile's 4x4 pixels of the input, *: per channel pair
//
// so that for each of 16 frequencies a matrix product [tiles, inputs] x [inputs, outputs] remains. The gradient of the
// weight is the transposed of this: dw = G^T [ sum over tiles of (B^T d B) * (A dy A^T) ] G.
//
// Images are rows of channels [images, height, width, channels] of even height and width; pixels outside are zero.
#pragma once

#include "dense.h"

namespace winograd {

using dense::kBlock;
using dense::kLanes;
using dense::load;
using dense::store;
using dense::Vector;

constexpr int kFrequencies = 16;

// Rows of channels; a tile is two rows and two columns of results.
struct Images {
  int64_t count, height, width;

  int64_t tiles() const { return count * (height / 2) * (width / 2); }
};

// Where a tile's 4x4 inputs are, from one pixel above and left of it on; `zeros` for those outside.
inline void input_pixels(const float* x, const Images& images, int64_t channels, int64_t tile, const float* zeros,
                         const float* (&pixels)[16]) {
  const int64_t across = images.width / 2, per_image = images.height / 2 * across;
  const int64_t image = tile / per_image, top = tile % per_image / across * 2 - 1, left = tile % across * 2 - 1;
  for (int64_t i = 0; i < 4; i++)
    for (int64_t j = 0; j < 4; j++) {
      const int64_t row = top + i, column = left + j;
      const bool inside = row >= 0 && row < images.height && column >= 0 && column < images.width;
      pixels[4 * i + j] = inside ? x + ((image * images.height + row) * images.width + column) * channels : zeros;
    }
}

// Index of the first of a tile's 2x2 results, in pixels.
inline int64_t first_result(const Images& images, int64_t tile) {
  const int64_t across = images.width / 2, per_image = images.height / 2 * across;
  const int64_t image = tile / per_image, row = tile % per_image / across * 2, column = tile % across * 2;
  return (image * images.height + row) * images.width + column;
}

// ---------------------------------------------------------------------------------------------------------------------
// Transforms of vectors of channels; put(frequency, channel, vector) takes the results.

// B^T d B.
template <typename Put> void transform_input(const float* const (&pixels)[16], int64_t channels, Put put) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector rows[4][4];
    for (int j = 0; j < 4; j++) {
      const Vector d0 = load(pixels[j] + c), d1 = load(pixels[4 + j] + c), d2 = load(pixels[8 + j] + c),
                   d3 = load(pixels[12 + j] + c);
      rows[0][j] = d0 - d2;
      rows[1][j] = d1 + d2;
      rows[2][j] = d2 - d1;
      rows[3][j] = d1 - d3;
    }
    for (int i = 0; i < 4; i++) {
      put(4 * i, c, rows[i][0] - rows[i][2]);
      put(4 * i + 1, c, rows[i][1] + rows[i][2]);
      put(4 * i + 2, c, rows[i][2] - rows[i][1]);
      put(4 * i + 3, c, rows[i][1] - rows[i][3]);
    }
  }
}

// A^T m A: 16 values, `stride` apart, to a tile's 2x2 results, the rows of which are `row` apart.
inline void transform_output(const float* m, int64_t stride, int64_t channels, float* y, int64_t row) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector sums[2][4];
    for (int j = 0; j < 4; j++) {
      const Vector m0 = load(m + j * stride + c), m1 = load(m + (4 + j) * stride + c),
                   m2 = load(m + (8 + j) * stride + c), m3 = load(m + (12 + j) * stride + c);
      sums[0][j] = m0 + m1 + m2;
      sums[1][j] = m1 - m2 - m3;
    }
    for (int i = 0; i < 2; i++) {
      store(y + i * row + c, sums[i][0] + sums[i][1] + sums[i][2]);
      store(y + i * row + channels + c, sums[i][1] - sums[i][2] - sums[i][3]);
    }
  }
}

// A dy A^T: gradients of a tile's 2x2 results to its 16 products'.
template <typename Put> void transform_gradient(const float* dy, int64_t row, int64_t channels, Put put) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    Vector rows[4][2];
    for (int j = 0; j < 2; j++) {
      const Vector y0 = load(dy + j * channels + c), y1 = load(dy + row + j * channels + c);
      rows[0][j] = y0;
      rows[1][j] = y0 + y1;
      rows[2][j] = y0 - y1;
      rows[3][j] = -y1;
    }
    for (int i = 0; i < 4; i++) {
      put(4 * i, c, rows[i][0]);
      put(4 * i + 1, c, rows[i][0] + rows[i][1]);
      put(4 * i + 2, c, rows[i][0] - rows[i][1]);
      put(4 * i + 3, c, -rows[i][1]);
    }
  }
}

// G w G^T for `count` values next to each other: taps w[3][3], `tap` apart, to u[16], `frequency` apart.
inline void transform_weight(const float* w, int64_t tap, int64_t count, float* u, int64_t frequency) {
  for (int64_t c = 0; c < count; c += kLanes) {
    Vector rows[4][3];
    for (int j = 0; j < 3; j++) {
      const Vector w0 = load(w + j * tap + c), w1 = load(w + (3 + j) * tap + c), w2 = load(w + (6 + j) * tap + c);
      rows[0][j] = w0;
      rows[1][j] = (w0 + w2 + w1) * 0.5f;
      rows[2][j] = (w0 + w2 - w1) * 0.5f;
      rows[3][j] = w2;
    }
    for (int i = 0; i < 4; i++) {
      const Vector outer = rows[i][0] + rows[i][2], middle = rows[i][1];
      store(u + (4 * i) * frequency + c, rows[i][0]);
      store(u + (4 * i + 1) * frequency + c, (outer + middle) * 0.5f);
      store(u + (4 * i + 2) * frequency + c, (outer - middle) * 0.5f);
      store(u + (4 * i + 3) * frequency + c, rows[i][2]);
    }
  }
}

// G^T du G: the transposed of `transform_weight`.
inline void transform_weight_gradient(const float* du, int64_t frequency, int64_t count, float* dw, int64_t tap) {
  for (int64_t c = 0; c < count; c += kLanes) {
    Vector rows[3][4];
    for (int j = 0; j < 4; j++) {
      const Vector u0 = load(du + j * frequency + c), u1 = load(du + (4 + j) * frequency + c),
                   u2 = load(du + (8 + j) * frequency + c), u3 = load(du + (12 + j) * frequency + c);
      const Vector half = (u1 + u2) * 0.5f;
      rows[0][j] = u0 + half;
      rows[1][j] = (u1 - u2) * 0.5f;
      rows[2][j] = half + u3;
    }
    for (int i = 0; i < 3; i++) {
      const Vector half = (rows[i][1] + rows[i][2]) * 0.5f;
      store(dw + 3 * i * tap + c, rows[i][0] + half);
      store(dw + (3 * i + 1) * tap + c, (rows[i][1] - rows[i][2]) * 0.5f);
      store(dw + (3 * i + 2) * tap + c, half + rows[i][3]);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of outer products

constexpr int kOuter = 8;  // rows of a block of sums in registers: kOuter x kColumns vectors

// sums[i, j] += sum over t of a[t, i] b[t, j] for kOuter values i of panels a [length, kLanes] and all j of b
// [length, kBlock].
inline void add_outer_products(const float* a, const float* b, int64_t length, float* sums, int64_t stride) {
  Vector sum[kOuter][dense::kColumns];
  for (int i = 0; i < kOuter; i++)
    for (int j = 0; j < dense::kColumns; j++) sum[i][j] = load(sums + i * stride + j * kLanes);
  for (int64_t t = 0; t < length; t++, a += kLanes, b += kBlock) {
    Vector factor[dense::kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < dense::kColumns; j++) factor[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kOuter; i++)
#pragma GCC unroll 8
      for (int j = 0; j < dense::kColumns; j++) sum[i][j] += dense::splat(a[i]) * factor[j];
  }
  for (int i = 0; i < kOuter; i++)
    for (int j = 0; j < dense::kColumns; j++) store(sums + i * stride + j * kLanes, sum[i][j]);
}

}  // namespace winograd
