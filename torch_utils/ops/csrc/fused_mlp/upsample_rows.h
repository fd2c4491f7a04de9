// Rows of pixels that enter a block's pointwise layers after a ×2 upsampling, computed one output row at a time.
//
// The two upsamplings of the 2D upsampler end with the blur [1, 3, 3, 1] / 8 per axis (zeros lie outside of the image).
// Values are [row][column][channel]; an object belongs to one thread, which asks for output rows in increasing order.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "dense.h"

namespace upsample {

// A row of pixels with `kMargin` pixels of zeros at either end.
class PaddedRow {
 public:
  static constexpr int64_t kMargin = 2;
  // The row may be read in whole vectors.
  PaddedRow(int64_t width, int64_t channels)
      : values_((width + 2 * kMargin) * channels + dense::kLanes), channels_(channels) {}
  float* begin() { return values_.data() + kMargin * channels_; }
  const float* begin() const { return values_.data() + kMargin * channels_; }

 private:
  std::vector<float> values_;
  int64_t channels_;
};

// to[i] = sum of w[j] * rows[j][i]
template <size_t N>
void combine(const std::array<const float*, N>& rows, const std::array<float, N>& w, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i++) {
    float sum = 0;
    for (size_t j = 0; j < N; j++) sum += w[j] * rows[j][i];
    to[i] = sum;
  }
}

constexpr std::array<float, 4> kBlur{0.125f, 0.375f, 0.375f, 0.125f};

// The blur of an image whose rows are computed on demand: source(row, to) writes a row of `width` pixels.
template <typename Source> class BlurredRows {
 public:
  BlurredRows(int64_t height, int64_t width, int64_t channels, Source source)
      : height_(height), width_(width), channels_(channels), source_(std::move(source)),
        rows_(kBlur.size(), std::vector<float>(width * channels)), zeros_(width * channels), column_(width, channels) {
    held_.fill(-1);
  }

  // Blurred row `y`: finish(channel, values) takes a vector of channels.
  template <typename T, typename Finish> void row(int64_t y, T* to, Finish finish) {
    std::array<const float*, 4> taps;
    for (int64_t j = 0; j < 4; j++) taps[j] = at(y - 2 + j);
    combine(taps, kBlur, width_ * channels_, column_.begin());
    const float* pixel = column_.begin();
    for (int64_t x = 0; x < width_; x++, pixel += channels_, to += channels_)
      for (int64_t c = 0; c < channels_; c += dense::kLanes) {
        dense::Vector sum{};
        for (int64_t j = 0; j < 4; j++) sum += kBlur[j] * dense::load(pixel + (j - 2) * channels_ + c);
        const int64_t count = channels_ - c;
        if (count >= dense::kLanes)
          dense::store(to + c, finish(c, sum));
        else
          dense::store_some(to + c, finish(c, sum), count);
      }
  }

 private:
  const float* at(int64_t y) {
    if (y < 0 || y >= height_) return zeros_.data();
    const size_t slot = y % rows_.size();
    if (held_[slot] != y) source_(held_[slot] = y, rows_[slot].data());
    return rows_[slot].data();
  }

  int64_t height_, width_, channels_;
  Source source_;
  std::vector<std::vector<float>> rows_;
  std::array<int64_t, 4> held_;
  std::vector<float> zeros_;
  PaddedRow column_;
};

// 'nn_cat': the hidden state of the correction, blur(lrelu(own + mean of the corner's two neighbours)), and the blurred
// nearest-neighbour upsampling that the correction is added to.
class CornerMeans {
 public:
  // hidden [height, width, 2 * channels]: for each pixel its own part and the part for its neighbours.
  CornerMeans(const float* hidden, int64_t height, int64_t width, int64_t channels, float slope)
      : hidden_(hidden), height_(height), width_(width), channels_(channels), slope_(slope), zeros_(2 * channels) {}

  // Row y of the image with 2 * width pixels, before the blur.
  void operator()(int64_t y, float* to) const {
    const int64_t i = y / 2, beside = y % 2 ? i + 1 : i - 1;
    for (int64_t x = 0; x < 2 * width_; x++, to += channels_) {
      const int64_t j = x / 2, next = x % 2 ? j + 1 : j - 1;
      const float *own = pixel(i, j), *vertical = pixel(beside, j) + channels_, *level = pixel(i, next) + channels_;
      for (int64_t c = 0; c < channels_; c++) {
        const float v = own[c] + 0.5f * (vertical[c] + level[c]);
        to[c] = v > 0 ? v : v * slope_;
      }
    }
  }

 private:
  const float* pixel(int64_t i, int64_t j) const {
    const bool inside = i >= 0 && i < height_ && j >= 0 && j < width_;
    return inside ? hidden_ + (i * width_ + j) * 2 * channels_ : zeros_.data();
  }

  const float* hidden_;
  int64_t height_, width_, channels_;
  float slope_;
  std::vector<float> zeros_;
};

class BlurredNearest {
 public:
  BlurredNearest(const float* x, int64_t height, int64_t width, int64_t channels)
      : x_(x), height_(height), width_(width), channels_(channels), zeros_(width * channels), column_(width, channels) {}

  // Row y of blur(nearest(x)), 2 * width pixels. Two or three taps of the blur fall on the same pixel of x.
  void row(int64_t y, float* to) {
    const int64_t i = y / 2;
    if (y % 2)
      combine<3>({at(i - 1), at(i), at(i + 1)}, kOdd, width_ * channels_, column_.begin());
    else
      combine<2>({at(i - 1), at(i)}, kEven, width_ * channels_, column_.begin());
    for (int64_t j = 0; j < width_; j++, to += 2 * channels_) {
      const float* v = column_.begin() + j * channels_;
      combine<2>({v - channels_, v}, kEven, channels_, to);
      combine<3>({v - channels_, v, v + channels_}, kOdd, channels_, to + channels_);
    }
  }

 private:
  static constexpr std::array<float, 2> kEven{0.5f, 0.5f};
  static constexpr std::array<float, 3> kOdd{0.125f, 0.75f, 0.125f};

  const float* at(int64_t i) const { return i < 0 || i >= height_ ? zeros_.data() : x_ + i * width_ * channels_; }

  const float* x_;
  int64_t height_, width_, channels_;
  std::vector<float> zeros_;
  PaddedRow column_;
};

// 'pixelshuffle': four copies of each pixel, each with its own correction, [height, width, 2, 2, channels].
class ShuffledRows {
 public:
  ShuffledRows(const float* x, const float* corrections, int64_t width, int64_t channels)
      : x_(x), corrections_(corrections), width_(width), channels_(channels) {}

  void operator()(int64_t y, float* to) const {
    for (int64_t j = 0; j < width_; j++) {
      const int64_t pixel = y / 2 * width_ + j;
      const float* pair = corrections_ + (2 * pixel + y % 2) * 2 * channels_;
      for (int64_t side = 0; side < 2; side++, to += channels_, pair += channels_)
        for (int64_t c = 0; c < channels_; c++) to[c] = x_[pixel * channels_ + c] + pair[c];
    }
  }

 private:
  const float *x_, *corrections_;
  int64_t width_, channels_;
};

}  // namespace upsample
