/*
 * amx_model.h - plain C in place of the AMX instructions that native/src/kernels/amx uses, beside avx512_model.h. Written from the
 * operation sections of Intel's instruction set reference; what would fault there is an assertion here, a read or write past a buffer is
 * seen by the guard pages.
 */
#ifndef TRIT_AMX_MODEL_H
#define TRIT_AMX_MODEL_H

enum { MODEL_TILES = 8 };

/* One program thread uses it: kerncheck. */
static struct {
    tile_config config; /* palette 0: the initial state */
    uint8_t data[MODEL_TILES][16][64];
} model_amx;

static inline void tile_configure(const tile_config *config)
{
    assert(config->palette == 1 && config->start_row == 0);
    for (int i = 0; i < 14; i++)
        assert(config->reserved[i] == 0);
    for (int i = 0; i < 16; i++)
        assert(i < MODEL_TILES ? config->rows[i] >= 1 && config->rows[i] <= 16 && config->row_bytes[i] <= 64 &&
                                     config->row_bytes[i] % 4 == 0
                               : config->rows[i] == 0 && config->row_bytes[i] == 0);
    model_amx.config = *config;
    memset(model_amx.data, 0, sizeof model_amx.data);
}

static inline void tile_release(void)
{
    memset(&model_amx, 0xee, sizeof model_amx); /* whoever still uses them sees it */
    memset(&model_amx.config, 0, sizeof model_amx.config);
}

static inline void model_tile_zero(int tile)
{
    assert(model_amx.config.palette == 1);
    memset(model_amx.data[tile], 0, sizeof model_amx.data[tile]);
}

static inline void model_tile_load(int tile, const void *from, size_t stride)
{
    assert(model_amx.config.palette == 1);
    memset(model_amx.data[tile], 0, sizeof model_amx.data[tile]);
    for (size_t row = 0; row < model_amx.config.rows[tile]; row++)
        memcpy(model_amx.data[tile][row], (const char *)from + row * stride, model_amx.config.row_bytes[tile]);
}

static inline void model_tile_store(int tile, void *to, size_t stride)
{
    assert(model_amx.config.palette == 1);
    for (size_t row = 0; row < model_amx.config.rows[tile]; row++)
        memcpy((char *)to + row * stride, model_amx.data[tile][row], model_amx.config.row_bytes[tile]);
}

/* TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD; sums wrap. */
static inline void model_tile_dot(int a_signed, int b_signed, int c, int a, int b)
{
    const tile_config *config = &model_amx.config;
    assert(config->palette == 1 && a != b && a != c && b != c);
    assert(config->rows[c] == config->rows[a] && config->row_bytes[c] == config->row_bytes[b]);
    assert(config->row_bytes[a] / 4 == config->rows[b]);
    for (int m = 0; m < config->rows[c]; m++)
        for (int n = 0; n < config->row_bytes[c] / 4; n++) {
            uint32_t sum;
            memcpy(&sum, model_amx.data[c][m] + 4 * n, 4);
            for (int k = 0; k < config->rows[b]; k++)
                for (int i = 0; i < 4; i++) {
                    uint8_t x = model_amx.data[a][m][4 * k + i], y = model_amx.data[b][k][4 * n + i];
                    sum += (uint32_t)((a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y));
                }
            memcpy(model_amx.data[c][m] + 4 * n, &sum, 4);
        }
}

#define TILE_LOAD(tile, from, stride) model_tile_load(tile, from, stride)
#define TILE_STORE(tile, to, stride) model_tile_store(tile, to, stride)
#define TILE_ZERO(tile) model_tile_zero(tile)
#define TILE_DOT(signs, c, a, b) TILE_DOT_(signs, c, a, b)
#define TILE_DOT_(signs, c, a, b) model_tile_dot(MODEL_SIGNS_##signs, c, a, b)
#define MODEL_SIGNS_ss 1, 1
#define MODEL_SIGNS_su 1, 0
#define MODEL_SIGNS_us 0, 1
#define MODEL_SIGNS_uu 0, 0

#endif
