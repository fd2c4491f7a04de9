// Common to all rows that upfirdn2d computes on the CPU: phases of the axes, and the taps of each phase.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "upfirdn2d.h"

namespace upfirdn2d {

// An axis whose outputs o = q * number + p of one phase p all see the same taps, at inputs q * step + shift[p] and after.
struct Phases {
    Index number, step;
    std::vector<Index> shift;

    explicit Phases(const Axis& axis) : number(axis.up / std::gcd(axis.up, axis.down)) {
        step = number * axis.down / axis.up;
        for (Index p = 0; p < number; p++) shift.push_back(unbounded_window(axis, p).input);
    }
};

template <class T>
using PhaseTaps = std::vector<std::vector<T>>;  // [phase][tap]

// For every phase, the taps that meet inputs.
template <class T>
PhaseTaps<T> split(const double* taps, const Axis& axis, const Phases& phases) {
    PhaseTaps<T> result(phases.number);
    for (Index p = 0; p < phases.number; p++)
        for (Index k = unbounded_window(axis, p).tap; k < axis.taps; k += axis.up) result[p].push_back(taps[k]);
    return result;
}

template <class T>
struct Plan {
    Axis y, x;
    Index channels;
    Phases down, along;
    bool separable;
    PhaseTaps<T> column;             // if separable
    std::vector<PhaseTaps<T>> rows;  // for every row of taps; one if separable
    Index first, beyond;             // inputs that the outputs q = 0 of all phases see: first <= input < beyond

    // f: correlation taps [taps_y][taps_x].
    Plan(const Axis& y_, const Axis& x_, Index channels_, const std::vector<double>& f)
        : y(y_), x(x_), channels(channels_), down(y_), along(x_) {
        std::vector<double> left, right;
        separable = factors(f, left, right);
        if (separable) {
            column = split<T>(left.data(), y, down);
            rows = {split<T>(right.data(), x, along)};
        } else {
            for (Index i = 0; i < y.taps; i++) rows.push_back(split<T>(f.data() + i * x.taps, x, along));
        }
        first = *std::min_element(along.shift.begin(), along.shift.end());
        beyond = first + 1;
        for (Index p = 0; p < along.number; p++)
            beyond = std::max<Index>(beyond, along.shift[p] + std::max<Index>(rows[0][p].size(), 1));
    }

    // True if f = left ⊗ right up to rounding; then sets both.
    bool factors(const std::vector<double>& f, std::vector<double>& left, std::vector<double>& right) const {
        const auto less = [](double a, double b) { return std::abs(a) < std::abs(b); };
        const Index largest = std::max_element(f.begin(), f.end(), less) - f.begin();
        const Index i0 = largest / x.taps, j0 = largest % x.taps;
        const double pivot = f[largest], limit = 4 * std::numeric_limits<T>::epsilon() * std::abs(pivot);
        for (Index i = 0; i < y.taps; i++) left.push_back(f[i * x.taps + j0]);
        for (Index j = 0; j < x.taps; j++) right.push_back(pivot == 0 ? 0 : f[i0 * x.taps + j] / pivot);
        for (Index i = 0; i < y.taps; i++)
            for (Index j = 0; j < x.taps; j++)
                if (!(std::abs(left[i] * right[j] - f[i * x.taps + j]) <= limit)) return false;
        return true;
    }
};

}  // namespace upfirdn2d
