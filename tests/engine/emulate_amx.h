// AMX tiles in plain C, after the pseudocode of Intel's manual, so that the AMX source can be tested on other machines.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

thread_local struct {
  uint8_t palette, start, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
} tile_config;
thread_local uint8_t tiles[8][16][64];

inline void emulate_load(int tile, const void* from, long stride) {
  memset(tiles[tile], 0, sizeof tiles[tile]);
  for (int r = 0; r < tile_config.rows[tile]; r++)
    memcpy(tiles[tile][r], (const uint8_t*)from + r * stride, tile_config.row_bytes[tile]);
}

inline void emulate_store(int tile, void* to, long stride) {
  for (int r = 0; r < tile_config.rows[tile]; r++)
    memcpy((uint8_t*)to + r * stride, tiles[tile][r], tile_config.row_bytes[tile]);
}

inline void emulate_dpbusd(int c, int a, int b) {
  for (int m = 0; m < tile_config.rows[c]; m++)
    for (int k = 0; k < tile_config.row_bytes[a] / 4; k++)
      for (int n = 0; n < tile_config.row_bytes[c] / 4; n++) {
        int32_t* sum = (int32_t*)tiles[c][m] + n;
        for (int i = 0; i < 4; i++) *sum += tiles[a][m][4 * k + i] * (int8_t)tiles[b][k][4 * n + i];
      }
}

inline float emulate_wide(const uint8_t* bf16) {
  uint32_t bits = (uint32_t)bf16[0] << 16 | (uint32_t)bf16[1] << 24;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

inline void emulate_dpbf16ps(int c, int a, int b) {
  for (int m = 0; m < tile_config.rows[c]; m++)
    for (int n = 0; n < tile_config.row_bytes[c] / 4; n++) {
      float parts[2] = {};
      for (int k = 0; k < tile_config.row_bytes[a] / 4; k++)
        for (int i = 0; i < 2; i++)
          parts[i] = __builtin_fmaf(emulate_wide(&tiles[a][m][4 * k + 2 * i]), emulate_wide(&tiles[b][k][4 * n + 2 * i]), parts[i]);
      ((float*)tiles[c][m])[n] += parts[0] + parts[1];
    }
}

}  // namespace

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) memcpy(&tile_config, config, 64)
#define _tile_release() memset(&tile_config, 0, 64)
#define _tile_zero(tile) memset(tiles[tile], 0, 1024)
#define _tile_loadd emulate_load
#define _tile_stored emulate_store
#define _tile_dpbusd emulate_dpbusd
#define _tile_dpbf16ps emulate_dpbf16ps
