// 3x3 convolutions by Winograd's minimal filtering (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
// Networks"). Along a line, F(m, r) computes m results of r taps from m + r - 1 products:
//
//   y = A^T [ (G w) * (B^T d) ]         d: m + r - 1 inputs, w: r taps, *: elementwise product
//
// and for an image, the transforms are applied along both axes. So F(4x4, 3x3) has 36 products for 16 results instead
// of 144, or 81 with stride 2; each of them becomes a matrix product [tiles, inputs] x [inputs, outputs]. The gradient
// of the weight is the transpose: dw = G^T [ sum over tiles of (B^T d) * (A dy) ].
//
// Products are the values of polynomials at the points 0, +-a, +-b and infinity. With the usual 1 and 2 for a and b,
// rounding errors are twice those with 3/4 and 3/2, which are about those of a plain sum (docs/operators.md; Barabasz
// et al. 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks").
//
// Images are rows of channels [images, height, width, channels] of type T, float or bfloat16; intermediate values are
// float: bfloat16 products would have several times the errors that they have in the definition.
#pragma once

#include "../fused_mlp/dense.h"

namespace winograd {

using dense::Bfloat16;
using dense::kBlock;
using dense::kLanes;
using dense::load;
using dense::store;
using dense::Vector;

// ---------------------------------------------------------------------------------------------------------------------
// Vectors of bfloat16: the upper halves of floats

typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

inline Vector load(const Bfloat16* p) {
  return (Vector)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Bits) << 16);
}
#if !defined(__AVX512BF16__)  // else in dense.h
inline void store(Bfloat16* p, Vector v) {
  const Bits bits = (Bits)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  const Bits quiet_nan = Bits{} + 0x7fc0;
  *reinterpret_cast<Halves*>(p) =
      __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded, Halves);
}
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Lines

// Powers of the finite points +-p other than 0; exact in binary.
constexpr float kA = 0.75f, kA2 = kA * kA, kA3 = kA2 * kA, kB = 1.5f, kB2 = kB * kB, kB3 = kB2 * kB;
constexpr float kSum = kA2 + kB2, kProduct = kA2 * kB2;

// A dy at the points a, -a, b and -b.
inline void at_points(const Vector (&dy)[4], Vector* p) {
  const Vector even_a = dy[0] + kA2 * dy[2], odd_a = kA * dy[1] + kA3 * dy[3];
  const Vector even_b = dy[0] + kB2 * dy[2], odd_b = kB * dy[1] + kB3 * dy[3];
  p[0] = even_a + odd_a;
  p[1] = even_a - odd_a;
  p[2] = even_b + odd_b;
  p[3] = even_b - odd_b;
}

// F(4, 3) at 0, a, -a, b, -b, infinity.
struct Three {
  static constexpr int kResults = 4, kTaps = 3, kInputs = 6, kProducts = 6, kWeights = 6;
  static constexpr float kWeight0 = 1 / kProduct, kWeightA = 1 / (2 * kA2 * (kA2 - kB2)),
                         kWeightB = 1 / (2 * kB2 * (kB2 - kA2));

  // B^T d.
  static void input(const Vector (&d)[6], Vector (&v)[6]) {
    const Vector even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
    const Vector even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
    v[0] = d[4] - kSum * d[2] + kProduct * d[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = d[5] - kSum * d[3] + kProduct * d[1];
  }

  // A^T m.
  static void output(const Vector (&m)[6], Vector (&y)[4]) {
    const Vector even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = kA * odd_a + kB * odd_b;
    y[2] = kA2 * even_a + kB2 * even_b;
    y[3] = kA3 * odd_a + kB3 * odd_b + m[5];
  }

  // A dy.
  static void gradient(const Vector (&dy)[4], Vector (&p)[6]) {
    p[0] = dy[0];
    at_points(dy, p + 1);
    p[5] = dy[3];
  }

  // G w.
  static void weight(const Vector (&w)[3], Vector (&u)[6]) {
    const Vector even_a = kWeightA * (w[0] + kA2 * w[2]), odd_a = kWeightA * kA * w[1];
    const Vector even_b = kWeightB * (w[0] + kB2 * w[2]), odd_b = kWeightB * kB * w[1];
    u[0] = kWeight0 * w[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = w[2];
  }

  // G^T du.
  static void weight_gradient(const Vector (&du)[6], Vector (&dw)[3]) {
    const Vector even_a = kWeightA * (du[1] + du[2]), even_b = kWeightB * (du[3] + du[4]);
    dw[0] = kWeight0 * du[0] + even_a + even_b;
    dw[1] = kWeightA * kA * (du[1] - du[2]) + kWeightB * kB * (du[3] - du[4]);
    dw[2] = kA2 * even_a + kB2 * even_b + du[5];
  }
};

// F(4, 2) at a, -a, b, -b, infinity.
struct Two {
  static constexpr int kResults = 4, kTaps = 2, kInputs = 5, kProducts = 5, kWeights = 5;
  static constexpr float kWeightA = 1 / (2 * kA * (kA2 - kB2)), kWeightB = 1 / (2 * kB * (kB2 - kA2));

  static void input(const Vector (&d)[5], Vector* v) {
    const Vector odd_a = d[3] - kB2 * d[1], even_a = kA * (d[2] - kB2 * d[0]);
    const Vector odd_b = d[3] - kA2 * d[1], even_b = kB * (d[2] - kA2 * d[0]);
    v[0] = odd_a + even_a;
    v[1] = odd_a - even_a;
    v[2] = odd_b + even_b;
    v[3] = odd_b - even_b;
    v[4] = d[4] - kSum * d[2] + kProduct * d[0];
  }

  static void output(const Vector* m, Vector (&y)[4]) {
    const Vector even_a = m[0] + m[1], odd_a = m[0] - m[1], even_b = m[2] + m[3], odd_b = m[2] - m[3];
    y[0] = even_a + even_b;
    y[1] = kA * odd_a + kB * odd_b;
    y[2] = kA2 * even_a + kB2 * even_b;
    y[3] = kA3 * odd_a + kB3 * odd_b + m[4];
  }

  static void weight(Vector w0, Vector w1, Vector* u) {
    u[0] = kWeightA * (kA * w1 + w0);
    u[1] = kWeightA * (kA * w1 - w0);
    u[2] = kWeightB * (kB * w1 + w0);
    u[3] = kWeightB * (kB * w1 - w0);
    u[4] = w1;
  }

  static void gradient(const Vector (&dy)[4], Vector (&p)[5]) {
    at_points(dy, p);
    p[4] = dy[3];
  }

  static void weight_gradient(const Vector (&du)[5], Vector (&dw)[2]) {
    dw[0] = kWeightA * (du[0] - du[1]) + kWeightB * (du[2] - du[3]);
    dw[1] = kWeightA * kA * (du[0] + du[1]) + kWeightB * kB * (du[2] + du[3]) + du[4];
  }
};

// F(1, 1).
struct One {
  static constexpr int kResults = 1, kTaps = 1, kInputs = 1, kProducts = 1, kWeights = 1;

  static void input(const Vector (&d)[1], Vector (&v)[1]) { v[0] = d[0]; }
  static void gradient(const Vector (&dy)[1], Vector (&p)[1]) { p[0] = dy[0]; }
  static void weight_gradient(const Vector (&du)[1], Vector (&dw)[1]) { dw[0] = du[0]; }
};

// Three taps with stride 2: F(4, 2) of every other input with the first and last tap, plain products of the other
// inputs with the middle tap.
struct Strided {
  static constexpr int kResults = 4, kTaps = 3, kInputs = 9, kProducts = 9, kWeights = 6;

  static void input(const Vector (&d)[9], Vector (&v)[9]) {
    const Vector even[5] = {d[0], d[2], d[4], d[6], d[8]};
    Two::input(even, v);
    for (int i = 0; i < 4; i++) v[5 + i] = d[2 * i + 1];
  }

  static void output(const Vector (&m)[9], Vector (&y)[4]) {
    Two::output(m, y);
    for (int i = 0; i < 4; i++) y[i] += m[5 + i];
  }

  static void weight(const Vector (&w)[3], Vector (&u)[6]) {
    Two::weight(w[0], w[2], u);
    u[5] = w[1];
  }
};

// Gradients of the results of a mirrored `Strided` to those of its inputs: F(4, 2) for every other input, plain
// products for those in between.
struct Spread : Strided {
  static constexpr int kResults = 8, kInputs = 5;

  static void input(const Vector (&d)[5], Vector (&v)[9]) {
    Two::input(d, v);
    for (int i = 0; i < 4; i++) v[5 + i] = d[i + 1];
  }

  static void output(const Vector (&m)[9], Vector (&y)[8]) {
    Vector even[4];
    Two::output(m, even);
    for (int i = 0; i < 4; i++) {
      y[2 * i] = even[i];
      y[2 * i + 1] = m[5 + i];
    }
  }
};

// Along one axis of an image, the i-th input of a line that begins with result `r` is pixel first(r) + i * kStep; its
// i-th tap is tap i * kStep + kTap of the 3x3 weight.
template <typename Line, int kFirst, int kStride, int kStep_, int kTap> struct Axis : Line {
  static constexpr int kStep = kStep_;

  static constexpr int64_t first(int64_t r) { return r * kStride + kFirst; }
  static constexpr int tap(int i) { return i * kStep + kTap; }
};
using Dense = Axis<Three, -1, 1, 1, 0>;  // stride 1, padding 1
using Even = Axis<Two, 0, 2, 2, 0>;      // stride 2, no padding: taps 0 and 2
using Odd = Axis<One, 1, 2, 2, 1>;       // and tap 1
using Down = Axis<Strided, 0, 2, 1, 0>;  // all three
struct Up : Axis<Spread, 0, 1, 1, 0> {   // the gradient of its inputs
  static constexpr int64_t first(int64_t r) { return r / 2 - 1; }
};

// ---------------------------------------------------------------------------------------------------------------------
// Tiles: V lines times H lines of results

// Rows of channels.
struct Images {
  int64_t count, height, width;
};

template <typename V, typename H> struct Tiles {
  static constexpr int kInputs = V::kInputs * H::kInputs;

  Images results;

  int64_t across() const { return results.width / H::kResults; }
  int64_t per_image() const { return results.height / V::kResults * across(); }
  int64_t count() const { return results.count * per_image(); }
  int64_t row(int64_t tile) const { return tile % per_image() / across() * V::kResults; }
  int64_t column(int64_t tile) const { return tile % across() * H::kResults; }

  // Index of the first of a tile's results, in pixels.
  int64_t first_result(int64_t tile) const {
    return (tile / per_image() * results.height + row(tile)) * results.width + column(tile);
  }

  // Pointers to a tile's inputs; `zeros` for those outside. Results beyond the last whole tile belong to no tile.
  template <typename T>
  void find_inputs(const T* x, const Images& images, int64_t channels, int64_t tile, const T* zeros,
                   const T* (&pixels)[kInputs]) const {
    const int64_t image = tile / per_image(), top = V::first(row(tile)), left = H::first(column(tile));
    for (int64_t i = 0; i < V::kInputs; i++)
      for (int64_t j = 0; j < H::kInputs; j++) {
        const int64_t y = top + i * V::kStep, x_ = left + j * H::kStep;
        const bool inside = y >= 0 && y < images.height && x_ >= 0 && x_ < images.width;
        pixels[i * H::kInputs + j] =
            inside ? x + ((image * images.height + y) * images.width + x_) * channels : zeros;
      }
  }
};

// Applies maps of lines along both axes: get(i, j) returns an input vector, put(i, j, vector) takes a result.
template <int kRowsIn, int kColumnsIn, int kRowsOut, int kColumnsOut, typename Vertical, typename Horizontal,
          typename Get, typename Put>
inline void along_both(Vertical vertical, Horizontal horizontal, Get get, Put put) {
  Vector half[kRowsOut][kColumnsIn];
#pragma GCC unroll 9
  for (int j = 0; j < kColumnsIn; j++) {
    Vector in[kRowsIn], out[kRowsOut];
#pragma GCC unroll 9
    for (int i = 0; i < kRowsIn; i++) in[i] = get(i, j);
    vertical(in, out);
#pragma GCC unroll 9
    for (int i = 0; i < kRowsOut; i++) half[i][j] = out[i];
  }
#pragma GCC unroll 9
  for (int i = 0; i < kRowsOut; i++) {
    Vector out[kColumnsOut];
    horizontal(half[i], out);
#pragma GCC unroll 9
    for (int j = 0; j < kColumnsOut; j++) put(i, j, out[j]);
  }
}

// B^T d of all channels; put(product, channel, vector) takes the results.
template <typename V, typename H, typename T, typename Put>
void transform_input(const T* const (&pixels)[V::kInputs * H::kInputs], int64_t channels, Put put) {
  for (int64_t c = 0; c < channels; c += kLanes)
    along_both<V::kInputs, H::kInputs, V::kProducts, H::kProducts>(
        V::input, H::input, [&](int i, int j) { return load(pixels[i * H::kInputs + j] + c); },
        [&](int i, int j, Vector v) { put(i * H::kProducts + j, c, v); });
}

// A dy: gradients of a tile's results, with rows `row` values apart, to those of its products.
template <typename V, typename H, typename T, typename Put>
void transform_gradient(const T* dy, int64_t row, int64_t channels, Put put) {
  for (int64_t c = 0; c < channels; c += kLanes)
    along_both<V::kResults, H::kResults, V::kProducts, H::kProducts>(
        V::gradient, H::gradient, [&](int i, int j) { return load(dy + i * row + j * channels + c); },
        [&](int i, int j, Vector v) { put(i * H::kProducts + j, c, v); });
}

// A^T m: products, `product` values apart, to a tile's results of `count` channels, with pixels `pixel` and rows `row`
// values apart.
template <typename V, typename H, typename T>
void transform_output(const float* m, int64_t product, int64_t count, T* y, int64_t pixel, int64_t row) {
  for (int64_t c = 0; c < count; c += kLanes)
    along_both<V::kProducts, H::kProducts, V::kResults, H::kResults>(
        V::output, H::output, [&](int i, int j) { return load(m + (i * H::kProducts + j) * product + c); },
        [&](int i, int j, Vector v) { store(y + i * row + j * pixel + c, v); });
}

// G w for `count` consecutive values: taps, `tap` values apart, to weights of products, `weight` values apart.
template <typename V, typename H>
void transform_weight(const float* w, int64_t tap, int64_t count, float* u, int64_t weight) {
  for (int64_t c = 0; c < count; c += kLanes)
    along_both<V::kTaps, H::kTaps, V::kWeights, H::kWeights>(
        V::weight, H::weight, [&](int i, int j) { return load(w + (i * H::kTaps + j) * tap + c); },
        [&](int i, int j, Vector v) { store(u + (i * H::kWeights + j) * weight + c, v); });
}

// Index of the weight of a product: along a line, the last weight serves all remaining products.
template <typename V, typename H> constexpr int weight_of(int product) {
  return std::min(product / H::kProducts, V::kWeights - 1) * H::kWeights +
         std::min(product % H::kProducts, H::kWeights - 1);
}

// G^T du: the transpose of `transform_weight`.
template <typename V, typename H>
void transform_weight_gradient(const float* du, int64_t product, int64_t count, float* dw, int64_t tap) {
  for (int64_t c = 0; c < count; c += kLanes)
    along_both<V::kProducts, H::kProducts, V::kTaps, H::kTaps>(
        V::weight_gradient, H::weight_gradient,
        [&](int i, int j) { return load(du + (i * H::kProducts + j) * product + c); },
        [&](int i, int j, Vector v) {
          store(dw + (i * H::kTaps + j) * tap + c, v);
        });
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of outer products

constexpr int kOuter = std::min(8, kLanes);  // rows of a block of sums in registers: kOuter x kColumns vectors

// sums[i, j] = sum over t of a[t, i] b[t, j], added to what is there if `add`, for kOuter values i of panels a [length,
// kLanes] and all j of b [length, kBlock]; rows of sums of kBlock values.
inline void outer_products(const float* a, const float* b, int64_t length, bool add, float* sums) {
  Vector sum[kOuter][dense::kColumns]{};
  for (int64_t t = 0; t < length; t++, a += kLanes, b += kBlock) {
    Vector factor[dense::kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < dense::kColumns; j++) factor[j] = load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kOuter; i++)
#pragma GCC unroll 8
      for (int j = 0; j < dense::kColumns; j++) sum[i][j] += dense::splat(a[i]) * factor[j];
  }
  if (add)  // at the end: many short sums are more exact than a long one
    for (int i = 0; i < kOuter; i++)
      for (int j = 0; j < dense::kColumns; j++) sum[i][j] += load(sums + i * kBlock + j * kLanes);
  for (int i = 0; i < kOuter; i++)
    for (int j = 0; j < dense::kColumns; j++) store(sums + i * kBlock + j * kLanes, sum[i][j]);
}

}  // namespace winograd
