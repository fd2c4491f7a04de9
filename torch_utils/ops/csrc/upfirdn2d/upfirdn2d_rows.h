// upfirdn2d on the CPU: one block of output rows of one image at a time, from rows of [width][channels].
//
// (Images in planar format are images of one channel.) Filters that are a product of two vectors run down the columns
// into a buffer that stays in the cache, and from there along the rows; other filters run row by row of taps.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "upfirdn2d_plan.h"
#include "upfirdn2d_sums.h"

namespace upfirdn2d {

constexpr Index WIDE = 16;    // least number of channels that have a loop of their own
constexpr Index TILE = 8192;  // values of a row handled at a time

template <class T>
class RowFilter {
    using Compute = ComputeType<T>;

 public:
    RowFilter(const Plan<Compute>& plan, bool stream) : plan_(plan), stream_(stream) {
        const Index c = plan.channels, phases = plan.along.number, step = plan.along.step;
        groups_ = divide_up(plan.x.out, phases);
        tile_ = std::max<Index>(TILE / (c * std::max(phases, step)), 2 * BLOCK);
        tile_ = std::min(divide_up(tile_, BLOCK) * BLOCK, groups_);
        span_ = (tile_ - 1) * step + plan.beyond - plan.first;
        // Narrow pixels are copied as whole vectors, which needs room for one more.
        buffer_.resize(BLOCK * (span_ * c + WIDE));
        row_.resize(tile_ * phases * c + WIDE);
        phase_rows_.resize(phases * (((tile_ - 1) * step + 1) * c + WIDE));
        if (!SAME) converted_.resize(((BLOCK - 1) * plan.down.step + plan.y.taps) * span_ * c);
        zeros_.resize(span_ * c);
    }

    // Output rows [start, stop) of an image; memory order, innermost first: channels, pixels, rows.
    void run(const T* image, T* out, Index start, Index stop) {
        for (Index q = 0; q < groups_; q += tile_) {
            enter_tile(q);
            if (plan_.separable)
                separable_rows(image, out, start, stop);
            else
                for (Index o = start; o < stop; o++) one_row(image, out, o);
        }
        if (stream_) end_of_streams();
    }

 private:
    static constexpr bool SAME = sizeof(T) == sizeof(Compute);  // no conversion

    // The tile's groups of outputs; its inputs begin at `origin`, and [left, right) of them exist.
    void enter_tile(Index q) {
        q_ = q;
        now_ = std::min(tile_, groups_ - q);
        origin_ = q * plan_.along.step + plan_.first;
        const Index end = origin_ + (now_ - 1) * plan_.along.step + plan_.beyond - plan_.first;
        left_ = std::clamp<Index>(origin_, 0, plan_.x.in);
        right_ = std::clamp<Index>(end, left_, plan_.x.in);
        for (Index r = 0; r < BLOCK; r++) {  // rows that do not exist stay zero
            std::fill(buffer(r), buffer(r) + offset(), Compute(0));
            std::fill(buffer(r) + offset() + size(), buffer(r + 1), Compute(0));
        }
    }

    Compute* buffer(Index r) { return buffer_.data() + r * (span_ * plan_.channels + WIDE); }
    // A tile may lie wholly before or behind the image.
    Index offset() const { return std::clamp<Index>(left_ - origin_, 0, span_) * plan_.channels; }
    Index size() const { return (right_ - left_) * plan_.channels; }

    // Row y of the tile's inputs, converted into the k-th scratch row if need be.
    const Compute* row(const T* image, Index y, Index k) {
        if (y < 0 || y >= plan_.y.in) return zeros_.data();
        const T* from = image + (y * plan_.x.in + left_) * plan_.channels;
        if constexpr (SAME) {
            (void)k;
            return from;
        } else {
            Compute* to = converted_.data() + k * span_ * plan_.channels;
            for (Index i = 0; i < size(); i++) to[i] = from[i];
            return to;
        }
    }

    // Blocks of rows of one phase share inputs and taps.
    void separable_rows(const T* image, T* out, Index start, Index stop) {
        const Index phases = plan_.down.number, step = plan_.down.step;
        for (Index o = start; o < stop; o += BLOCK * phases)
            for (Index p = 0; p < phases; p++) {
                Index r = 0;
                if (step <= 2 && o + p + (BLOCK - 1) * phases < stop) {
                    step == 1 ? block_of_rows<BLOCK, 1>(image, out, o + p) : block_of_rows<BLOCK, 2>(image, out, o + p);
                    r = BLOCK;
                }
                for (; r < BLOCK && o + p + r * phases < stop; r++) block_of_rows<1, 1>(image, out, o + p + r * phases);
            }
    }

    // Output rows o, o + phases, …
    template <int ROWS, int STEP>
    void block_of_rows(const T* image, T* out, Index o) {
        const std::vector<Compute>& taps = plan_.column[o % plan_.down.number];
        const Index input = unbounded_window(plan_.y, o).input, number = taps.size();
        from_.resize((ROWS - 1) * STEP + number);
        for (size_t k = 0; k < from_.size(); k++) from_[k] = row(image, input + k, k);
        Compute* to[ROWS];
        for (Index r = 0; r < ROWS; r++) to[r] = buffer(r) + offset();
        combine<ROWS, STEP>(to, from_.data(), taps.data(), number, size(), false);
        for (Index r = 0; r < ROWS; r++) {
            const Index at = o + r * plan_.down.number;
            Compute* result = target(out, at);
            along(buffer(r), plan_.rows[0], result, false);
            finish(out, at, result);
        }
    }

    void one_row(const T* image, T* out, Index o) {
        const Window w = window(plan_.y, o);
        Compute* result = target(out, o);
        Compute* to = buffer(0) + offset();
        for (Index k = 0; k < std::max<Index>(w.count, 1); k++) {
            const Compute* from = w.count == 0 ? zeros_.data() : row(image, w.input + k, 0);
            std::copy(from, from + size(), to);
            along(buffer(0), plan_.rows[w.count == 0 ? 0 : w.tap + k * plan_.y.up], result, k > 0);
        }
        finish(out, o, result);
    }

    // Outputs are written in place, except those that need a conversion or are interleaved from phases.
    bool flat() const { return plan_.along.number == 1 && plan_.along.step == 1; }
    bool interleaved() const { return plan_.channels < WIDE && !flat(); }
    T* place(T* out, Index o) const {
        return out + (o * plan_.x.out + q_ * plan_.along.number) * plan_.channels;
    }
    Index outputs() const { return std::min(plan_.x.out - q_ * plan_.along.number, now_ * plan_.along.number); }
    Compute* target(T* out, Index o) {
        if constexpr (SAME)
            if (!interleaved() && !stream_) return place(out, o);
        return interleaved() ? phase_rows_.data() : row_.data();
    }

    // Correlate a buffer with a row of taps into `to`.
    void along(const Compute* from, const PhaseTaps<Compute>& taps, Compute* to, bool add) {
        const Index c = plan_.channels;
        if (interleaved()) {
            // Every position of a phase, those between steps too; `finish` picks.
            const Index length = ((now_ - 1) * plan_.along.step + 1) * c;
            for (Index p = 0; p < plan_.along.number; p++)
                positions(from + (plan_.along.shift[p] - plan_.first) * c, taps[p], to + p * (length + WIDE), length, add);
        } else if (c < WIDE) {
            positions(from, taps[0], to, outputs() * c, add);
        } else {
            for (Index p = 0; p < plan_.along.number; p++)
                pixels(from + (plan_.along.shift[p] - plan_.first) * c, taps[p], to + p * c,
                       divide_up(outputs() - p, plan_.along.number), add);
        }
    }

    void shifted(const Compute* from, Index number) {
        from_.resize(number);
        for (Index k = 0; k < number; k++) from_[k] = from + k * plan_.channels;
    }

    void positions(const Compute* from, const std::vector<Compute>& taps, Compute* to, Index length, bool add) {
        shifted(from, taps.size());
        combine<1, 1>(&to, from_.data(), taps.data(), taps.size(), length, add);
    }

    // `number` pixels of one phase.
    void pixels(const Compute* from, const std::vector<Compute>& taps, Compute* to, Index number, bool add) {
        const Index c = plan_.channels, step = plan_.along.step;
        Index q = 0;
        if (step <= 2)
            for (; q + BLOCK <= number; q += BLOCK) {
                Compute* outs[BLOCK];
                for (Index r = 0; r < BLOCK; r++) outs[r] = to + (q + r) * plan_.along.number * c;
                shifted(from + q * step * c, (BLOCK - 1) * step + taps.size());
                if (step == 1)
                    combine<BLOCK, 1>(outs, from_.data(), taps.data(), taps.size(), c, add);
                else
                    combine<BLOCK, 2>(outs, from_.data(), taps.data(), taps.size(), c, add);
            }
        for (; q < number; q++)
            positions(from + q * step * c, taps, to + q * plan_.along.number * c, c, add);
    }

    void finish(T* out, Index o, Compute* result) {
        T* to = place(out, o);
        const Index count = outputs() * plan_.channels;
        if (interleaved()) {
            interleave();
            result = row_.data();
        }
        if constexpr (SAME)
            if (stream_) return stream(to, result, count);
        if (static_cast<void*>(result) != static_cast<void*>(to))
            for (Index i = 0; i < count; i++) to[i] = static_cast<T>(result[i]);
    }

    // Phase rows to pixels in order: a whole vector is copied for each, whose excess the next one overwrites.
    void interleave() {
        const Index c = plan_.channels, length = ((now_ - 1) * plan_.along.step + 1) * c, stride = length + WIDE;
        const Compute* from = phase_rows_.data();
        Compute* to = row_.data();
        if (c == 1 && plan_.along.number == 1 && plan_.along.step == 2) {
            for (Index q = 0; q < now_; q++) to[q] = from[2 * q];
        } else if (c == 1 && plan_.along.number == 2 && plan_.along.step == 1) {
            for (Index q = 0; q < now_; q++) {
                to[2 * q] = from[q];
                to[2 * q + 1] = from[stride + q];
            }
        } else if (c <= 4) {
            copy_pixels<4>(from, stride);
        } else if (c <= 8) {
            copy_pixels<8>(from, stride);
        } else {
            copy_pixels<WIDE>(from, stride);
        }
    }

    template <Index WIDTH>
    void copy_pixels(const Compute* from, Index stride) {
        const Index c = plan_.channels, phases = plan_.along.number, step = plan_.along.step * c, groups = now_;
        Compute* to = row_.data();
        for (Index q = 0; q < groups; q++)
            for (Index p = 0; p < phases; p++, to += c) memcpy(to, from + p * stride + q * step, WIDTH * sizeof(Compute));
    }

    const Plan<Compute>& plan_;
    const bool stream_;                          // results are too large for the caches
    Index groups_, tile_, span_;                 // groups of `phases` outputs of a row and of a tile; a tile's inputs
    Index q_, now_, origin_, left_, right_;      // the present tile
    std::vector<Compute> buffer_, row_, phase_rows_, converted_, zeros_;
    std::vector<const Compute*> from_;
};

}  // namespace upfirdn2d
