# engine.cmake - everything of libtrit above the kernels.
set(TRIT_ENGINE_SOURCES
  src/mem.c src/checksum.c
  src/packed_file.c src/model.c src/kv.c
  src/thread_pool.c src/linear.c src/ffn.c src/attention.c src/attention_plan.c src/kv_write.c src/rank.c
  src/screen.c src/candidates.c src/choose.c src/sampler.c src/sampler_check.c
  src/batch.c src/session.c src/head_stage.c src/forward.c
  src/measure/measure.c src/measure/read.c src/measure/calibrate.c
  src/api.c)
