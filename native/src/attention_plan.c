/* attention_plan.c - see attention_plan.h. */
#include "attention_plan.h"

#include "mem.h"
#include "status.h"

/*
 * Query vectors of a tile: K and V, read once per tile, are used by all of them. A multiple of every kernel's rows; what a tile needs besides K
 * and V (its queries, probabilities, accumulators, outputs) stays in the second-level cache.
 */
enum { TILE_QUERIES = 48 };

/*
 * A step that gives each thread fewer items than this has its longer tiles cut, into pieces of at least MIN_PIECE_CHUNKS. Every piece
 * quantises its queries again (under 1 us), and a thread that waits for the last piece waits for an eighth of its own time at most.
 */
enum { ITEMS_PER_THREAD = 8, MIN_PIECE_CHUNKS = 2 };

/* Bound of what the pieces of all tiles leave behind. A tile for which nothing is left stays whole. */
enum { MAX_RESULT_BYTES = 32 * 1024 * 1024 };

size_t trit_attention_tile_rows(const trit_arch *arch)
{
    size_t rows = TILE_QUERIES / trit_group_heads(arch);
    return rows < 1 ? 1 : rows;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void cut_segments(trit_attention_plan *plan, trit_rows_run rows)
{
    for (size_t n, at = 0; at < rows.n_rows; at += n) {
        size_t position = rows.position + at;
        n = smaller(rows.n_rows - at, TRIT_BLOCK_TOKENS - position % TRIT_BLOCK_TOKENS);
        plan->segments[plan->n_segments++] = (trit_rows_run){rows.blocks, rows.row + at, n, position};
    }
}

static void cut_tiles(trit_attention_plan *plan, trit_rows_run rows)
{
    size_t tile_rows = trit_attention_tile_rows(plan->arch);
    for (size_t n, at = 0; at < rows.n_rows; at += n) {
        n = smaller(rows.n_rows - at, tile_rows);
        plan->tiles[plan->n_tiles++] = (trit_attention_tile){
            .rows = {rows.blocks, rows.row + at, n, rows.position + at},
            .writes = n == rows.n_rows,
            .n_chunks = (rows.position + at + n - 1) / TRIT_CHUNK_TOKENS + 1,
            .n_pieces = 1,
        };
    }
}

/* Into pieces of about target chunks, as far as room for results is left; returns how many results it takes. */
static size_t split_tile(const trit_attention_plan *plan, trit_attention_tile *tile, size_t target, size_t taken)
{
    size_t kv_heads = (size_t)plan->arch->n_kv_heads;
    size_t n_pieces = (tile->n_chunks + target - 1) / target;
    size_t results = kv_heads * tile->n_chunks * tile->rows.n_rows * trit_group_heads(plan->arch);
    if (n_pieces < 2 || results > plan->max_results - taken)
        return 0;
    tile->n_pieces = n_pieces;
    tile->first_result = taken;
    for (size_t head = 0; head < kv_heads; head++)
        atomic_store_explicit(&plan->unfinished[(size_t)(tile - plan->tiles) * kv_heads + head], n_pieces,
                              memory_order_relaxed);
    return results;
}

static void list_pieces(trit_attention_plan *plan, size_t index)
{
    const trit_attention_tile *tile = &plan->tiles[index];
    size_t written = tile->rows.position / TRIT_CHUNK_TOKENS; /* from this chunk on, the last piece's */
    size_t first = 0;
    for (size_t piece = 1; piece <= tile->n_pieces; piece++) {
        size_t end =
            piece == tile->n_pieces ? tile->n_chunks : smaller(piece * tile->n_chunks / tile->n_pieces, written);
        plan->pieces[plan->n_pieces++] = (trit_attention_piece){index, first, end};
        first = end;
    }
}

void trit_attention_plan_cut(trit_attention_plan *plan, const trit_batch *batch)
{
    plan->n_segments = plan->n_tiles = plan->n_pieces = 0;
    for (int32_t seq = 0; seq < batch->n_seqs; seq++) {
        trit_rows_run rows = {batch->block_tables + (size_t)seq * (size_t)batch->max_blocks,
                              (size_t)batch->cu_rows[seq], (size_t)(batch->cu_rows[seq + 1] - batch->cu_rows[seq]),
                              (size_t)batch->start_pos[seq]};
        size_t before = plan->n_tiles;
        cut_tiles(plan, rows);
        if (plan->n_tiles > before + 1)
            cut_segments(plan, rows);
    }
    size_t chunks = 0, items = ITEMS_PER_THREAD * plan->n_threads, taken = 0;
    for (size_t i = 0; i < plan->n_tiles; i++)
        chunks += plan->tiles[i].n_chunks * (size_t)plan->arch->n_kv_heads;
    size_t target = (chunks + items - 1) / items;
    if (target < MIN_PIECE_CHUNKS)
        target = MIN_PIECE_CHUNKS;
    for (size_t i = 0; i < plan->n_tiles; i++) {
        if (plan->n_threads > 1)
            taken += split_tile(plan, &plan->tiles[i], target, taken);
        list_pieces(plan, i);
    }
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

trit_status trit_attention_plan_create(trit_attention_plan *out, const trit_arch *arch, size_t max_rows,
                                       size_t n_threads, trit_error *err)
{
    size_t kv_heads = (size_t)arch->n_kv_heads;
    size_t result_bytes = (trit_acc_stride(arch) + 3) * sizeof(int32_t);
    /* Tiles are split when their share is over an item's, so no more of them than items; each with the longest context. */
    size_t split_tiles = smaller(max_rows, ITEMS_PER_THREAD * n_threads / kv_heads + 1);
    size_t longest = ((size_t)arch->max_positions + TRIT_CHUNK_TOKENS - 1) / TRIT_CHUNK_TOKENS * (size_t)arch->n_heads;
    trit_attention_plan p = {.arch = arch, .n_threads = n_threads};
    p.max_results = n_threads == 1 ? 0 : smaller(split_tiles * longest, MAX_RESULT_BYTES / result_bytes);
    p.segments = trit_alloc(max_rows, sizeof *p.segments);
    p.tiles = trit_alloc(max_rows, sizeof *p.tiles);
    p.pieces = trit_alloc(max_rows + ITEMS_PER_THREAD * n_threads, sizeof *p.pieces);
    p.unfinished = trit_alloc(max_rows * kv_heads, sizeof *p.unfinished);
    p.results.acc = trit_alloc(p.max_results * trit_acc_stride(arch), sizeof *p.results.acc);
    p.results.m_c = trit_alloc(3 * p.max_results, sizeof *p.results.m_c);
    if (p.segments == NULL || p.tiles == NULL || p.pieces == NULL || p.unfinished == NULL || p.results.acc == NULL ||
        p.results.m_c == NULL) {
        trit_attention_plan_destroy(&p);
        return trit_fail(err, TRIT_ERR_MEMORY, "no memory for the attention of %zu rows and %zu results", max_rows,
                         p.max_results);
    }
    p.results.l_c = p.results.m_c + p.max_results;
    p.results.w_scale = p.results.l_c + p.max_results;
    *out = p;
    return TRIT_OK;
}

void trit_attention_plan_destroy(trit_attention_plan *plan)
{
    trit_free(plan->segments);
    trit_free(plan->tiles);
    trit_free(plan->pieces);
    trit_free(plan->unfinished);
    trit_free(plan->results.acc);
    trit_free(plan->results.m_c);
    *plan = (trit_attention_plan){0};
}
