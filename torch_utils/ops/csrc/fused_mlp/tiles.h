// Matrix products of tiles of bfloat16 by Intel's AMX: registers of 16 rows of 64 bytes, and an instruction for
//
//   sum [16, 16] += x [16, 32] w [32, 16]
//
// whose right factor holds pairs of inputs in the order of dense.h's packed weights.
#pragma once

#include "dense.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dense {

constexpr int kRegisterRows = 16, kTwoRegisters = 2 * kRegisterRows;

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)

struct TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A thread's tile registers while it exists: 0 to 3 sums, 4 and 5 rows of x, 6 and 7 weights.
class TileRegisters {
 public:
  TileRegisters() {
    static constexpr TileShapes kShapes;
    if (allowed()) _tile_loadconfig(&kShapes);
  }
  ~TileRegisters() {
    if (allowed()) _tile_release();
  }
  TileRegisters(const TileRegisters&) = delete;

  // The system gives the registers only to processes that ask for them.
  static bool allowed() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
  }
};

// Sums [rows, kBlock] of 16 rows, or 32, and a block of packed weights. `inputs` are whole tiles.
//
// Not inlined: GCC's intrinsics do not say that they read memory, and stores to x could move behind them.
template <int kSumRows>
__attribute__((noinline))
void multiply_tiles(const Bfloat16* x, int64_t x_stride, const Bfloat16* w, int64_t inputs, float* sums) {
  constexpr int64_t kWeightBytes = kBlock * 4, kSumBytes = kBlock * 4;  // of a row: pairs of bfloat16, and float
  const Bfloat16* second = x + kRegisterRows * x_stride;
  _tile_zero(0);
  _tile_zero(1);
  if (kSumRows == kTwoRegisters) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < inputs; k += 32, w += 32 * kBlock) {
    _tile_loadd(6, w, kWeightBytes);
    _tile_loadd(7, w + 2 * kLanes, kWeightBytes);
    _tile_loadd(4, x + k, x_stride * 2);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (kSumRows == kTwoRegisters) {
      _tile_loadd(5, second + k, x_stride * 2);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kSumBytes);
  _tile_stored(1, sums + kLanes, kSumBytes);
  if (kSumRows == kTwoRegisters) {
    _tile_stored(2, sums + kRegisterRows * kBlock, kSumBytes);
    _tile_stored(3, sums + kRegisterRows * kBlock + kLanes, kSumBytes);
  }
}

#else

struct TileRegisters {
  static bool allowed() { return false; }
};

template <int kSumRows> void multiply_tiles(const Bfloat16*, int64_t, const Bfloat16*, int64_t, float*) {}

#endif

}  // namespace dense
